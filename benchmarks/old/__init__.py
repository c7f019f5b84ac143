"""A project for django-mass-migration 0.3.9, which has our import name: for a process of its own."""
