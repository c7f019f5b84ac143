"""A project with Celery, whose app is loaded with Django."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
