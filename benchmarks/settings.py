"""The benchmark's project: one database, chosen by the environment."""

from __future__ import annotations

import os

from testsupport.settings import server

DATABASE = os.environ.get("BENCH_DATABASE", "sqlite")
if DATABASE == "sqlite":
    path = os.path.join(os.environ.get("BENCH_FOLDER", "."), "bench.sqlite3")  # noqa: PTH118
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": {"timeout": 30}}}
elif DATABASE == "postgresql":
    DATABASES = {"default": server("postgresql", os.environ["TEST_POSTGRES_URL"], {})}
else:
    try:
        import MySQLdb  # noqa: F401  # the C driver, where it is installed
    except ImportError:
        import pymysql

        pymysql.install_as_MySQLdb()
    DATABASES = {"default": server("mysql", os.environ["TEST_MARIADB_URL"], {"charset": "utf8mb4"})}

SECRET_KEY = "only for benchmarks"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["massmigration", "benchmarks.benchapp"]
MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
