"""Settings as django-mass-migration's documentation has them; the tests give the database and the backend."""

import json
import os

DATABASES = {"default": json.loads(os.environ["V03_PROJECT_DATABASE"])}
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    import pymysql

    pymysql.install_as_MySQLdb()

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "massmigration",
    "shop",
]

MASSMIGRATION_BACKEND = os.environ["V03_PROJECT_BACKEND"]
MASSMIGRATION_RECORD_CACHE_TIMEOUT = 5
