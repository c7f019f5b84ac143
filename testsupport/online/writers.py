"""Writers beside an online change. Each keeps a journal of what it has committed, and of how long that took."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import pickle
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from django.db import Error, connections, transaction

from testsupport.online.scene import PARENTS, STEP, initial, is_parent

_context = multiprocessing.get_context("fork")

OLD, NEW = "goal", "goal_spend"
"""The column that the change renames."""

UNKNOWN_COLUMN = {"42703", "1054"}
TRY_AGAIN = {"40P01", "55P03", "40001", "1205", "1213"}
LOST = {"", "57P01", "57P02", "57P03", "08006", "08001", "2006", "2013", "2003", "2002", "1053", "1927", "0"}

Operation = tuple[str, Any, Any, Any]


@dataclasses.dataclass
class Report:
    """What a writer has done."""

    rows: dict[int, tuple[Any, ...] | None] = dataclasses.field(default_factory=dict)
    """The row of each key that it has written, None for a deleted row."""

    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    """The parent of each child that it has inserted, by the child's text."""

    latencies: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """When each transaction began, and how many seconds it took."""

    errors: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lost: int = 0
    """How often the connection was lost."""


class LoadWriter:
    """A writer of rows with keys that no other writer has: inserts, updates, deletes, changes of the key."""

    def __init__(self, db_alias: str, number: int, writers: int, rows: int, *, rate: float) -> None:
        self._alias, self._number, self._writers, self._count = db_alias, number, writers, rows
        self._rate = rate
        self._random = random.Random(number * 7919 + rows)
        self._mine: list[int] = []
        self._column = OLD
        self.report = Report()

    def run(self, stop: Any, path: Path) -> None:
        """Write until `stop` is set, then write the report to a file."""
        number = 0
        try:
            while not stop.is_set():
                number += 1
                operations = self._draw(number)
                if operations:
                    began = time.time()
                    self._commit(number, operations)
                    self.report.latencies.append((began, time.time() - began))
                stop.wait(self._random.expovariate(self._rate))
        finally:
            connections[self._alias].close()
            path.write_bytes(pickle.dumps(self.report))

    def _commit(self, number: int, operations: list[Operation]) -> None:
        while True:
            try:
                done = self._execute(number, operations)
            except Error as error:
                code = _code(error)
                if code in LOST:
                    self.report.lost += 1
                    if not self._was_committed(number):
                        continue
                    self._keep(operations, self._done)
                    return
                self.report.errors[code if code in UNKNOWN_COLUMN | TRY_AGAIN else str(error)[:160]] += 1
                if code in UNKNOWN_COLUMN:
                    self._column = NEW if self._column == OLD else OLD
                elif code not in TRY_AGAIN:
                    return
            else:
                self._keep(operations, done)
                return

    def _execute(self, number: int, operations: list[Operation]) -> list[tuple[int, Any]]:
        with transaction.atomic(self._alias), connections[self._alias].cursor() as cursor:
            self._done = [pair for each in operations for pair in self._write(cursor, each)]
            cursor.execute("INSERT INTO load_transaction VALUES (%s, %s)", [self._number, number])
        return self._done

    def _was_committed(self, number: int) -> bool:
        """Return whether the transaction in which the connection was lost is in the database."""
        while True:
            connections[self._alias].close()
            try:
                with connections[self._alias].cursor() as cursor:
                    cursor.execute(
                        "SELECT 1 FROM load_transaction WHERE writer = %s AND number = %s", [self._number, number]
                    )
                    return cursor.fetchone() is not None
            except Error:
                time.sleep(0.1)

    def _keep(self, operations: list[Operation], done: list[tuple[int, Any]]) -> None:
        for key, row in done:
            self.report.rows[key] = row
            if row is not None:
                self._mine.append(key)
        for kind, parent, _, text in operations:
            if kind == "note":
                self.report.notes[text] = parent

    def _draw(self, number: int) -> list[Operation]:
        """Return the operations of a transaction: 25 % inserts, 45 % updates, 12 % deletes, 18 % changes of a key."""
        operations: list[Operation] = []
        used: set[int] = set()
        for _ in range(self._random.choice([1, 1, 2, 3])):
            roll = self._random.random()
            row = (
                f"w{self._number}-{number}",
                self._random.randrange(10**6),
                self._random.choice([None, self._random.randrange(999)]),
            )
            if roll < 0.25:
                key = self._free_key() if self._random.random() < 0.5 else None
                if key not in used:
                    operations.append(("insert", key, None, row))
                    used |= {key} - {None}
                continue
            key = self._existing_key()
            if key is None or key in used:
                continue
            used.add(key)
            if roll < 0.70 or is_parent(key):
                operations.append(("update", key, None, row))
            elif roll < 0.82:
                operations.append(("delete", key, None, None))
            else:
                to = self._free_key()
                if to not in used:
                    used.add(to)
                    operations.append(("move", key, to, self.report.rows.get(key) or initial(key)))
        if self._random.random() < 0.2:
            parent = self._random.randrange(1, self._count // PARENTS + 1) * PARENTS * STEP
            operations.append(("note", parent, None, f"w{self._number}-{number}"))
        return operations

    def _own_key(self) -> int:
        """Return the key that one of its rows had at the beginning."""
        while True:
            number = self._random.randrange(self._count) // self._writers * self._writers + self._number
            if 0 < number <= self._count:
                return number * STEP

    def _free_key(self) -> int:
        while True:
            key = self._own_key() + self._random.randrange(1, STEP)
            if self.report.rows.get(key) is None:
                return key

    def _existing_key(self) -> int | None:
        is_mine = self._mine and self._random.random() < 0.4
        key = self._random.choice(self._mine) if is_mine else self._own_key()
        return None if self.report.rows.get(key, ()) is None else key

    def _write(self, cursor: Any, operation: Operation) -> list[tuple[int, Any]]:
        """Execute an operation. Return the rows that there are then, by key."""
        kind, key, to, row = operation
        if kind == "note":
            cursor.execute("INSERT INTO shop_note (campaign_id, text) VALUES (%s, %s)", [key, row])
            return []
        if kind == "insert":
            names = f"name, budget, {self._column}, objective, data"
            values = [*row, "o", "{}"]
            more, seven = ("description", "d") if self._column == OLD else ("like_count", 7)
            names, values = f"{names}, {more}", [*values, seven]
            if key is not None:
                names, values = f"id, {names}", [key, *values]
            cursor.execute(f"INSERT INTO campaign ({names}) VALUES ({', '.join(['%s'] * len(values))})", values)
            if key is None:
                is_postgresql = self._alias == "postgresql"
                cursor.execute("SELECT lastval()" if is_postgresql else "SELECT LAST_INSERT_ID()")
                key = cursor.fetchone()[0]
            return [(key, row)]
        if kind == "update":
            cursor.execute(
                f"UPDATE campaign SET name = %s, budget = %s, {self._column} = %s WHERE id = %s", [*row, key]
            )
            done = [(key, row)]
        elif kind == "delete":
            cursor.execute("DELETE FROM campaign WHERE id = %s", [key])
            done = [(key, None)]
        else:
            cursor.execute("UPDATE campaign SET id = %s WHERE id = %s", [to, key])
            done = [(key, None), (to, row)]
        if cursor.rowcount != 1:
            self.report.errors[f"{kind} of {key} found {cursor.rowcount} rows"] += 1
        return done


class Writers:
    """Some writers, in threads or in processes of their own, from `start` to `stop`."""

    def __init__(self, db_alias: str, rows: int, *, count: int = 4, rate: float, in_processes: bool) -> None:
        self._alias = db_alias
        self._writers = [LoadWriter(db_alias, number, count, rows, rate=rate) for number in range(count)]
        self._folder = tempfile.TemporaryDirectory(prefix="massmigration-writers-")
        kind: Any = _context.Process if in_processes else threading.Thread
        self._stop: Any = _context.Event() if in_processes else threading.Event()
        self._runs = [
            kind(target=writer.run, args=(self._stop, self._path(number)), daemon=True)
            for number, writer in enumerate(self._writers)
        ]
        self.reports: list[Report] = []

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number}.pickle"

    def __enter__(self) -> Writers:
        connections.close_all()  # a process that is forked would share them
        for each in self._runs:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> list[Report]:
        """End the writers after their transactions, and return their reports."""
        if not self.reports:
            self._stop.set()
            for each in self._runs:
                each.join()
            self.reports = [pickle.loads(self._path(number).read_bytes()) for number in range(len(self._writers))]
            self._folder.cleanup()
        return self.reports


def _code(error: BaseException) -> str:
    """Return the server's code of an error, or nothing if the server has not answered."""
    cause = error.__cause__ or error
    if type(cause).__module__.startswith("psycopg"):
        return getattr(cause, "sqlstate", None) or ""
    return str(cause.args[0]) if cause.args else ""
