"""The Celery app of worker processes: `celery -A testsupport.celery_app worker`."""

from celery import Celery

app = Celery("tests")
app.config_from_object("django.conf:settings", namespace="CELERY")
