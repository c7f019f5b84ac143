"""Settings of the test project, for workers in other processes too: SQLite, and each server in the environment."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Workers of pytest-xdist share the servers, and each has databases of its own on them.
DATABASE_NAME = "_".join(filter(None, ["massmigration_tests", os.environ.get("PYTEST_XDIST_WORKER")]))

MYSQL_DRIVER = os.environ.get("TEST_MYSQL_DRIVER", "pymysql")


def server(engine: str, url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the entry in DATABASES for the tests' database on the server at this URL."""
    parts = urlsplit(url)
    return {
        "ENGINE": engine,
        "NAME": DATABASE_NAME,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "OPTIONS": options,
    }


def mysql_engine() -> str:
    """Return the engine for MySQL and MariaDB with the driver that `TEST_MYSQL_DRIVER` names (default: PyMySQL)."""
    if MYSQL_DRIVER == "mysql-connector-python":
        return "mysql.connector.django"
    if MYSQL_DRIVER == "pymysql":
        import pymysql

        pymysql.install_as_MySQLdb()
    return "django.db.backends.mysql"


def mysql_options(url: str) -> dict[str, Any]:
    """Return the driver's options: on this machine without TLS, for which it would read all certificates each time."""
    has_option = MYSQL_DRIVER in ("pymysql", "mysql-connector-python")
    plain = {"ssl_disabled": True} if has_option and urlsplit(url).hostname == "127.0.0.1" else {}
    return {"charset": "utf8mb4", **plain}


def sqlite_file() -> str:
    """Return the path of SQLite's file, or the name of a database in memory outside of a test run."""
    folder = os.environ.get("TEST_SQLITE_DIR")
    return str(Path(folder) / f"{DATABASE_NAME}.sqlite3") if folder else ":memory:"


def durations(found: dict[str, Any]) -> Any:
    """Return the `timedelta` that `testsupport.fleet` has written as JSON, or the object itself."""
    return dt.timedelta(seconds=found["seconds"]) if set(found) == {"seconds"} else found


DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sqlite_file(), "OPTIONS": {"timeout": 30}}}
if url := os.environ.get("TEST_POSTGRES_URL"):
    DATABASES["postgresql"] = server("django.db.backends.postgresql", url, {})
for alias, variable in {"mariadb": "TEST_MARIADB_URL", "mysql": "TEST_MYSQL_URL"}.items():
    if url := os.environ.get(variable):
        DATABASES[alias] = server(mysql_engine(), url, mysql_options(url))

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
MASSMIGRATION_APPLY_ON_FRESH_DATABASE = False  # tests launch the migrations of the test project themselves
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "testsupport.urls"
STATIC_URL = "static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "massmigration",
    "massmigration_schema",
    "testsupport.testapp",
    "testsupport.operations_app",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
"""Django 6.1 warns where it is missing; older ones do not know it."""

# What a test gives to other processes.
globals().update(json.loads(os.environ.get("MM_TEST_OVERRIDES", "{}"), object_hook=durations))
