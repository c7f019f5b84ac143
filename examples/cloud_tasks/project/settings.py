"""The settings; those for massmigration are at the end."""

import os
from pathlib import Path

SECRET_KEY = "only for the example"
DEBUG = True
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", Path(__file__).parent.parent / "example.sqlite3"),
        "OPTIONS": {"timeout": 30},
    }
}
INSTALLED_APPS = ["massmigration", "shop"]

MASSMIGRATION_BACKEND = "massmigration_djangae.CloudTasksBackend"
MASSMIGRATION_BACKEND_OPTIONS = {
    "project": "example",
    "location": "europe-west1",
    "queue": "default",
    "url": os.environ.get("EXAMPLE_URL", "http://127.0.0.1:8000") + "/massmigration/run/",
    # The emulator does not sign its requests. In production there is a service_account here instead of these two.
    "emulator": os.environ.get("TASKS_EMULATOR_HOST", "127.0.0.1:9022"),
    "verifier": "massmigration_djangae.auth.development",
}
