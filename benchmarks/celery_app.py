"""The Celery app of the benchmark's workers."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

app = Celery("benchmarks", broker=os.environ.get("BENCH_REDIS_URL"))
