"""A project that has Celery: its app is there wherever Django is."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
