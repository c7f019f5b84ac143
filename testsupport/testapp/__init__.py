"""A Django app with models and migrations for the tests of every package."""
