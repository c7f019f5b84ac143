"""The settings; those for massmigration are at the end."""

import os
from pathlib import Path

SECRET_KEY = "only for the example"
DEBUG = True
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", Path(__file__).parent.parent / "example.sqlite3"),
    }
}
INSTALLED_APPS = ["django_rq", "massmigration", "shop"]

RQ_QUEUES = {
    "massmigrations": {
        "URL": os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
        "SERIALIZER": "rq.serializers.JSONSerializer",
    }
}

MASSMIGRATION_BACKEND = "massmigration_rq.RQBackend"
MASSMIGRATION_TASK_QUEUE = "massmigrations"
