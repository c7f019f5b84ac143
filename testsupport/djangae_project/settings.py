"""A project as djangae's documentation sets one up.

MM_TEST_DATABASE is its database, MM_TEST_DURATIONS are settings of ours in seconds, both as JSON.
"""

import datetime as dt
import json
import os
from pathlib import Path

from djangae.environment import project_id
from djangae.settings_base import *  # noqa: F403
from djangae.settings_base import MIDDLEWARE as DJANGAE_MIDDLEWARE

BASE_DIR = Path(__file__).parent
SECRET_KEY = "only for tests"
DEBUG = True
USE_TZ = True
CSRF_USE_SESSIONS = True
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
ROOT_URLCONF = "urls"

INSTALLED_APPS = [
    "djangae",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "djangae.contrib.security",
    "djangae.tasks",
    "massmigration",
    "shop",
]
MIDDLEWARE = ["djangae.tasks.middleware.TaskEnvironmentMiddleware", *DJANGAE_MIDDLEWARE]
MIDDLEWARE.remove("django.contrib.messages.middleware.MessageMiddleware")

DATABASES = {"default": json.loads(os.environ["MM_TEST_DATABASE"])}

CLOUD_TASKS_PROJECT_ID = project_id()
CLOUD_TASKS_LOCATION = "europe-west1"
CLOUD_TASKS_QUEUES = [{"name": "default"}]

MASSMIGRATION_APPLY_ON_FRESH_DATABASE = False
MASSMIGRATION_TASK_QUEUE = "default"
MASSMIGRATION_MAX_BATCH_SIZE = 100  # small enough for a kill between two batches
# The emulator does not send the headers of App Engine, which would prove the origin.
MASSMIGRATION_BACKEND_OPTIONS = {"verifier": "massmigration_djangae.auth.development"}

for _name, _seconds in json.loads(os.environ.get("MM_TEST_DURATIONS", "{}")).items():
    globals()[f"MASSMIGRATION_{_name}"] = dt.timedelta(seconds=_seconds)
