"""Settings as in the predecessor's documentation, with a separate database."""

import os

os.environ["BENCH_NAME"] = "old.sqlite3" if os.environ["BENCH_DATABASE"] == "sqlite" else "benchmark_old"
os.environ["BENCH_FILE"] = "old.sqlite3"

from benchmarks.settings import DATABASES, DEFAULT_AUTO_FIELD, SECRET_KEY, USE_TZ  # noqa: F401

if os.environ["BENCH_DATABASE"] == "sqlite":
    DATABASES["default"]["NAME"] = os.path.join(os.environ["BENCH_FOLDER"], "old.sqlite3")  # noqa: PTH118

INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "massmigration", "benchmarks.old.oldapp"]
MASSMIGRATION_BACKEND = "benchmarks.old.backends.InlineBackend"
