"""Random crashes of server processes at four places, each noted in the file MM_TEST_CRASHES."""

from __future__ import annotations

import fcntl
import os
import random
from functools import wraps
from pathlib import Path
from typing import Any

from django.utils.module_loading import import_string

PLACES = {
    "claimed": ("massmigration.executor.job.shards", "claim"),
    "batch committed": ("massmigration.executor.atomic_batch.AtomicBatchRunner", "run"),
    "sent": ("massmigration_djangae.backend.CloudTasksBackend", "send_continuation"),
    "looked": ("massmigration.executor.job", "finish"),
}
TIMES = {"claimed": 8, "batch committed": 10, "sent": 8, "looked": 4}
"""How often at each place."""


def arm() -> None:
    """Install the crashes if the environment asks for them."""
    path = os.environ.get("MM_TEST_CRASHES")
    if path:
        for place, (owner, name) in PLACES.items():
            _wrap(import_string(owner), name, place, Path(path))


def _wrap(owner: Any, name: str, place: str, file: Path) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def mortal(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if random.SystemRandom().random() < 0.5:
            _crash(place, file)
        return result

    setattr(owner, name, mortal)


def _crash(place: str, file: Path) -> None:
    with file.open("a+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        if log.read().splitlines().count(place) < TIMES[place]:
            log.write(f"{place}\n")
            log.flush()
            os._exit(1)
