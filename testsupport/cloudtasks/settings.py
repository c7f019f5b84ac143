"""The test project as a server of its own: PostgreSQL is the default database, durations are given in seconds."""

from __future__ import annotations

import datetime as dt
import json
import os

from testsupport.settings import *  # noqa: F403
from testsupport.settings import DATABASES

DATABASES = {"default": DATABASES["postgresql"], "postgresql": DATABASES["postgresql"]}
ROOT_URLCONF = "testsupport.cloudtasks.urls"

_SECONDS = ("JOB_DURATION", "LEASE", "BATCH_DURATION")
for _name, _value in json.loads(os.environ.get("MM_TEST_SETTINGS", "{}")).items():
    globals()[f"MASSMIGRATION_{_name}"] = dt.timedelta(seconds=_value) if _name in _SECONDS else _value
