import contextlib
import re

import pytest
from django.db import connections

from massmigration import api
from massmigration.worker import perform
from testsupport import races
from testsupport.races import KEY, ONCE_EACH

OWN = {"id", "attempt_id", "fence", "lease_token"}
RECORD = {"key", "attempt_id", "status"}

# What each UPDATE sets, and the columns of its own row that it is conditional on.
UPDATES = {
    "claim": (
        {"lease_token", "lease_until", "worker", "heartbeat_at", "next_send_at", "send_count"},
        {"id", "attempt_id", "is_done", "lease_until"},
    ),
    "begin": ({"fence"}, OWN),
    "end": (
        {"cursor", "is_done", "processed", "skipped", "failed", "batch_size", "heartbeat_at", "lease_until"},
        OWN,
    ),
    "release": ({"lease_token", "lease_until", "next_send_at"}, {"id", "lease_token"}),
    "heal a shard": ({"next_send_at", "send_count"}, {"id", "is_done", "lease_until", "next_send_at"}),
}
