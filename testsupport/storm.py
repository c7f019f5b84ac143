"""A storm: faults of every kind, in an order that a seed decides, which a running migration meets."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.exceptions import MassMigrationError
from massmigration.jobs import JobKind
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import shards
from testsupport import oracle
from testsupport.database_servers import DATABASE_SERVERS, DatabaseServer
from testsupport.fleet import ProcessFleet
from testsupport.testapp.models import Call, Item
from testsupport.worker_processes import wait_until

WORKERS = 3
LEASE, IDLE_LIMIT = 4, 5
"""Seconds. A frozen worker sleeps for longer than both."""

PAUSE = 0.01
ROUND = 12
"""Faults that one run meets at most. The next run begins with new rows."""

PATIENCE = 400.0

WEIGHTS = {
    "kill": 5,
    "freeze": 3,
    "terminate": 3,
    "end sessions": 3,
    "restart server": 1,
    "flush broker": 1,
    "double messages": 3,
    "deliver late": 2,
    "pause and resume": 2,
    "cancel and retry": 1,
    "edit": 4,
    "delete": 3,
    "insert": 3,
}
"""The kinds of faults, and how often each is chosen. A further kind is an entry here and a method of `Storm`."""


def seed_of(rng: random.Random) -> int:
    """Return the seed in MM_STORM_SEED, or a new one."""
    given = os.environ.get("MM_STORM_SEED")
    return int(given) if given else rng.getrandbits(32)


def send_by_queue(payloads: list[str]) -> None:
    """Send jobs through the backend of the settings, with a delay if it can delay them."""
    backend = get_backend()
    for number, payload in enumerate(payloads):
        backend.send(payload, dt.timedelta(seconds=1) if number % 2 and backend.supports_delay else None)


def count_of(default: int) -> int:
    """Return the number of faults in MM_STORM_FAULTS, or the default."""
    return int(os.environ.get("MM_STORM_FAULTS", default))


@dataclasses.dataclass(kw_only=True)
class Site:
    """What the site has written while the migration ran, and so must be found at the end."""

    edited: dict[int, str] = dataclasses.field(default_factory=dict)
    deleted: set[int] = dataclasses.field(default_factory=set)
    inserted: set[int] = dataclasses.field(default_factory=set)
    unknown: set[int] = dataclasses.field(default_factory=set)
    """Rows whose write got no answer, because the server was killed."""


class Storm:
    """The faults that workers, a queue, a server and the site cause for one migration."""

    def __init__(
        self,
        fleet: Any,
        name: str,
        *,
        seed: int,
        begin: Callable[[], Any],
        send: Callable[[list[str]], Any] | None = None,
        flush: Callable[[], Any] | None = None,
        server: DatabaseServer | None = None,
    ) -> None:
        self.fleet = fleet
        self.db_alias: str = fleet.db_alias
        self.name = name
        self.key = f"testapp:{name}"
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.inside = 0
        """Kills and freezes inside a transaction in which an operation had written."""

        self._begin = begin
        self._send = send or send_by_queue
        self._flush = flush
        self._server = server
        self._thaws: dict[Any, float] = {}
        self._leaving: set[Any] = set()
        """The workers that were asked to stop."""

        self._late: list[str] = []
        kinds = {kind: weight for kind, weight in WEIGHTS.items() if self._can(kind)}
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def _can(self, kind: str) -> bool:
        return not ((kind == "flush broker" and not self._flush) or (kind == "restart server" and not self._server))

    def rage(self, faults: int, rows: int) -> None:
        """Run the migration again and again until it has met so many faults. Check the oracle after each run."""
        left = faults
        while left:
            self._renew_workers()
            self._forget()
            oracle.make_items(self.db_alias, rows)
            self.site = Site()
            self._initial = set(oracle.rows(self.db_alias))
            self._retried(lambda: api.launch(self.key, self.db_alias, actor="code:storm"))
            self._staff()
            wait_until(lambda: self._status() == "running" and self._done(), timeout=PATIENCE)
            for _ in range(min(left, ROUND)):
                if not self._is_running():
                    break
                self._fault()
                left -= 1
            self._calm()
            self.check()

    def _fault(self) -> None:
        time.sleep(self.rng.uniform(0.1, 0.6))
        self._thaw()
        self._staff()
        (kind,) = self.rng.choices(self._kinds, self._weights)
        with self._noted(kind):
            getattr(self, f"_{kind.replace(' ', '_')}")()

    @contextlib.contextmanager
    def _noted(self, kind: str) -> Iterator[None]:
        yield
        self.counts[kind] += 1

    # Workers

    def _kill(self) -> None:
        victim = self._frozen_owner()
        if victim is not None:
            victim.kill()

    def _freeze(self) -> None:
        victim = self._frozen_owner()
        if victim is not None:
            self._thaws[victim] = time.monotonic() + IDLE_LIMIT + self.rng.uniform(1, 3)

    def _frozen_owner(self) -> Any:
        """Freeze a worker, and return it. It has a shard, if one has."""
        owners = self._asked(self.fleet.owners) or []
        free = self._free()
        victims = [worker for worker in owners if worker in free] or free
        if not victims:
            return None
        victim = self.rng.choice(victims)
        victim.freeze()
        self.inside += bool(self._asked(victim.has_uncommitted_work))
        return victim

    def _terminate(self) -> None:
        if free := self._free():
            leaving = self.rng.choice(free)
            self._leaving.add(leaving)
            os.kill(leaving.pid, signal.SIGTERM)

    def _free(self) -> list[Any]:
        """Return the workers that are neither frozen nor asked to stop. The latter may end at any moment."""
        return [worker for worker in self.fleet.alive() if worker not in self._thaws and worker not in self._leaving]

    def _thaw(self, *, all_of_them: bool = False) -> None:
        for worker, at in list(self._thaws.items()):
            if all_of_them:
                time.sleep(max(0, at - time.monotonic()))
            if time.monotonic() >= at:
                worker.thaw()
                del self._thaws[worker]

    def _staff(self) -> None:
        """Replace the workers that are gone."""
        while len(self._free()) < WORKERS:
            self._begin()

    # The server

    def _end_sessions(self) -> None:
        """Terminate the connections of a worker, as an administrator or a proxy does."""
        workers = [worker for worker in self.fleet.alive() if worker.sessions.exists()]
        if not workers:
            return
        noted = self.rng.choice(workers).sessions.read_text().split()
        kind = DATABASE_SERVERS[self.db_alias]
        for session in noted[-4:]:
            with contextlib.suppress(DatabaseError, InterfaceError), connections[self.db_alias].cursor() as cursor:
                cursor.execute(kind.end_session, [int(session)])

    def _restart_server(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server.start_again()
        connections[self.db_alias].close()

    # The queue

    def _flush_broker(self) -> None:
        assert self._flush is not None
        self._flush()

    def _double_messages(self) -> None:
        """Send the jobs of all open shards again."""
        self._remember()
        self._send(self._payloads())

    def _deliver_late(self) -> None:
        """Deliver jobs that were sent long ago."""
        late, self._late = self._late[:4], self._late[4:]
        self._remember()
        self._send(late)

    def _remember(self) -> None:
        self._late += self._payloads()

    def _payloads(self) -> list[str]:
        record = self._asked(lambda: MigrationRecord.objects.using(self.db_alias).filter(key=self.key).first())
        if record is None:
            return []
        job = record.job(JobKind.SHARD)
        return [each.dumps() for each in self._asked(lambda: shards.open_shards(job)) or []]

    # Operators

    def _pause_and_resume(self) -> None:
        self._act(api.pause)
        time.sleep(self.rng.uniform(0, 0.5))
        self._act(api.resume)

    def _cancel_and_retry(self) -> None:
        self._act(api.cancel)
        self._act(api.retry)

    def _act(self, action: Callable[..., Any]) -> None:
        """Perform an action until it is done. It is refused if the run has ended, or an earlier try has done it."""
        with contextlib.suppress(MassMigrationError):
            self._retried(lambda: action(self.key, self.db_alias, actor="code:storm"), but=())

    # The site

    def _edit(self) -> None:
        for pk in self._some():
            note = f"edit {self.rng.getrandbits(32)}"
            if self._write(pk, lambda pk=pk, note=note: self._items.filter(pk=pk).update(note=note)):
                self.site.edited[pk] = note

    def _delete(self) -> None:
        for pk in self._some():
            if self._write(pk, lambda pk=pk: self._items.filter(pk=pk).delete()):
                self.site.deleted.add(pk)

    def _insert(self) -> None:
        made = self._asked(lambda: self._items.create(name="late"))
        if made is not None:
            self.site.inserted.add(made.pk)

    @property
    def _items(self) -> Any:
        return Item.objects.using(self.db_alias)

    def _some(self) -> list[int]:
        left = sorted(self._initial - self.site.deleted - self.site.unknown)
        return self.rng.sample(left, min(3, len(left)))

    def _write(self, pk: int, write: Callable[[], Any]) -> bool:
        """Return whether the write was committed. The database may be restarting, or a batch has locked the row."""
        try:
            write()
        except (DatabaseError, InterfaceError):
            self.site.unknown.add(pk)
            connections[self.db_alias].close()
            return False
        return True

    # The end

    def _calm(self) -> None:
        """End all faults, and wait until the migration is applied."""
        self._thaw(all_of_them=True)
        self._staff()
        self._act(api.resume)
        self._hurry()
        last = time.monotonic()

        def has_ended() -> bool:
            nonlocal last
            if time.monotonic() - last > LEASE:  # a queue without workers that recover needs a cron job
                last = time.monotonic()
                self._asked(lambda: api.recover(self.db_alias))
                self._staff()
            status = self._status()
            if status == "paused":
                self._act(api.resume)
            elif status == "cancelled":
                self._act(api.retry)
            return status in ("applied", "failed")

        wait_until(has_ended, timeout=PATIENCE)

    def _hurry(self) -> None:
        """End the pauses in operations."""
        if isinstance(self.fleet, ProcessFleet):
            self.fleet.hurry()
            return
        for worker in self.fleet.alive():
            worker.hurry()

    def _renew_workers(self) -> None:
        """Replace the workers that do not pause any more."""
        for worker in self.fleet.alive():
            with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                worker.kill()
        if isinstance(self.fleet, ProcessFleet):
            self.fleet.slow_down()

    def check(self) -> None:
        """Check that each row was processed exactly once, and that what the site wrote is still there."""
        record = MigrationRecord.objects.using(self.db_alias).get(key=self.key)
        assert (record.status, record.last_error) == ("applied", ""), self.told
        assert not FailedObject.objects.using(self.db_alias).exists(), self.told
        found = {pk: values for pk, *values in self._items.values_list("pk", "n", "slug", "note")}
        sure = self._initial - self.site.unknown
        assert sure - found.keys() == self.site.deleted & sure, self.told
        assert not self.site.deleted & found.keys(), f"deleted rows are back; {self.told}"
        for pk, note in self.site.edited.items():
            if pk in found and pk not in self.site.unknown:
                assert found[pk][2] == note, f"the edit of row {pk} is lost; {self.told}"
        by_fields = self.name == "0003_by_fields"
        done = Counter((n, slug is not None) for pk, (n, slug, _) in found.items() if pk in self._initial)
        assert set(done) <= {(0, True) if by_fields else (1, False)}, f"{done}; {self.told}"
        late = {n for pk, (n, _, _) in found.items() if pk not in self._initial}
        assert late <= {0, 1}, f"late rows were counted {late} times; {self.told}"
        if self.name != "0004_by_batch":
            calls = Counter(oracle.calls(self.db_alias))
            assert set(calls.values()) <= {1}, f"{calls.most_common(3)}; {self.told}"
            assert self._initial & found.keys() <= calls.keys(), self.told

    @property
    def told(self) -> str:
        """The faults so far, for messages."""
        return json.dumps(self.counts)

    def _forget(self) -> None:
        if self._asked(lambda: MigrationRecord.objects.using(self.db_alias).filter(key=self.key).exists()):
            self._retried(lambda: api.forget(self.key, self.db_alias, actor="code:storm"))
        for model in (Call, Item):
            self._retried(lambda model=model: model.objects.using(self.db_alias).all()._raw_delete(self.db_alias))
        self._late = []

    def _retried(self, call: Callable[[], Any], *, but: tuple[type[Exception], ...] = ()) -> Any:
        """Return the result of a call, tried again while the server restarts or a batch is in flight."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return call()
            except (DatabaseError, InterfaceError):
                connections[self.db_alias].close()
                assert time.monotonic() < deadline, self.told
                time.sleep(0.1)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """Return an answer, or None while the server does not answer."""
        try:
            return ask()
        except (DatabaseError, InterfaceError):
            connections[self.db_alias].close()
            return None

    def _status(self) -> str:
        return str(self._asked(lambda: self.fleet.status()) or "")

    def _is_running(self) -> bool:
        return self._status() in ("", "queued", "running", "paused")

    def _done(self) -> int:
        rows = self._asked(lambda: list(ShardRecord.objects.using(self.db_alias).values_list("processed", flat=True)))
        return sum(rows or [])
