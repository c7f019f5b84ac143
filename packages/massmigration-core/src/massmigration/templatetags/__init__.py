"""For `{% load massmigration %}`."""
