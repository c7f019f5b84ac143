"""The benchmark's project: one database, chosen by the environment."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from testsupport.settings import server

DATABASE = os.environ.get("BENCH_DATABASE", "sqlite")
DRIVER = "sqlite3"


def postgresql() -> dict[str, Any]:
    return server("django.db.backends.postgresql", os.environ["TEST_POSTGRES_URL"], {})


def mariadb() -> dict[str, Any]:
    return server("django.db.backends.mysql", os.environ["TEST_MARIADB_URL"], {"charset": "utf8mb4"})


def mysql() -> dict[str, Any]:
    return server("django.db.backends.mysql", os.environ["TEST_MYSQL_URL"], {"charset": "utf8mb4"})


def sqlite() -> dict[str, Any]:
    """Return the settings of SQLite that the documentation recommends."""
    path = Path(os.environ.get("BENCH_FOLDER", ".")) / os.environ.get("BENCH_FILE", "bench.sqlite3")
    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {"timeout": 30, "init_command": pragmas},
    }


if DATABASE in ("mariadb", "mysql"):
    try:
        import MySQLdb  # noqa: F401

        DRIVER = f"mysqlclient {version('mysqlclient')}"
    except ImportError:
        import pymysql

        pymysql.install_as_MySQLdb()
        DRIVER = f"PyMySQL {pymysql.__version__}, which is slower than mysqlclient"
elif DATABASE == "postgresql":
    DRIVER = "psycopg"

DATABASES = {
    "default": {"postgresql": postgresql, "mariadb": mariadb, "mysql": mysql, "sqlite": sqlite}[DATABASE](),
}
if name := os.environ.get("BENCH_NAME"):
    DATABASES["default"]["NAME"] = name

SECRET_KEY = "only for benchmarks"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["massmigration", "benchmarks.benchapp"]
MASSMIGRATION_APPLY_ON_FRESH_DATABASE = False
MASSMIGRATION_BACKEND = os.environ.get("BENCH_BACKEND", "massmigration.backends.immediate.ImmediateBackend")
if url := os.environ.get("BENCH_REDIS_URL"):  # in workers
    INSTALLED_APPS += ["django_rq"]
    RQ_QUEUES = {"default": {"URL": url}}
