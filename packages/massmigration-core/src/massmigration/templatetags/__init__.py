"""The template tags and filters of `{% load massmigration %}`."""
