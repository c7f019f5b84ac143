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
INSTALLED_APPS = ["massmigration", "shop"]

CELERY_BROKER_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

MASSMIGRATION_BACKEND = "massmigration_celery.CeleryBackend"
MASSMIGRATION_TASK_QUEUE = "massmigrations"
