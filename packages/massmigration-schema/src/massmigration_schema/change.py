"""`TableChange`, the mass migration that changes one table online, and `SchemaChange`, that of a Django migration."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.apps.registry import Apps
from django.db import DataError, IntegrityError, connections, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from massmigration import api
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.details import Detail, MigrationAction
from massmigration.definitions.stages import Stage, StageContext
from massmigration.exceptions import ActionRefused, NotNow
from massmigration.models import MigrationRecord
from massmigration.paging.keyset import Keyset, encode_key
from massmigration.paging.querysets import all_rows
from massmigration.states import Status
from massmigration.throttling import CompletedBatch
from massmigration_schema import details, guard, ledger
from massmigration_schema.definition import TableDefinition
from massmigration_schema.derivation import Derivation, derive
from massmigration_schema.dialects.base import RowSynchronizer, TableSwap
from massmigration_schema.dialects.registry import SchemaDialect, schema_dialect_of, supports_online_changes
from massmigration_schema.exceptions import ConflictsLeft, Refused, RefusedForReasons
from massmigration_schema.files import SchemaMigrationFile, online_migrations
from massmigration_schema.models import OnlineChange
from massmigration_schema.options import Online
from massmigration_schema.plan import ChangePlan, tag_of

COPIED_FIRST = 500
"""Rows in the first batch of the copy. With fewer, the fixed cost of a batch keeps them few on a busy server."""

COPY_GROWTH = 1.5
"""How many times larger the next batch of the copy may be: a batch that overshoots makes the writers wait."""

VERIFIED_AT_ONCE = 5_000
"""Rows that are compared by one statement, which locks none of them."""

LONGEST_WAIT = dt.timedelta(seconds=5)
NAMED_CONFLICTS = 5

COMPARED_EVERY = dt.timedelta(hours=1)
"""How often all rows are compared while the change waits for an operator."""

COMPARED_FOR = 5.0
"""Seconds for which they are compared at once. Then other jobs have their turn, until the next recovery."""

VERIFIED_FOR = dt.timedelta(days=1)
"""How long a comparison of the tables counts for the cutover."""


STAGES = (
    *("prepare", "copy", "settle", "verify", "repair", "verify again", "repair again", "get ready"),
    *("wait for the cutover", "cut over"),
)
"""The names of the stages, for operators. Without `cutover="manual"`, there is no waiting."""


class TableChange(BaseMigration):
    """The change of one table: its stages make the new table, fill it, compare it, and put it in place."""

    runs_only_by_name = True
    on_fresh_database = "fake"
    on_code_change = "pause"
    online: Online

    @property
    def given_name(self) -> str:
        """The name by which commands find the change."""
        return self.name

    @property
    def title(self) -> str:
        """The name in messages."""
        return f"{self.app_label}.{self.given_name}"

    # ---- What it works with ----

    def get_allowed_db_aliases(self) -> list[str]:
        return [alias for alias in super().get_allowed_db_aliases() if supports_online_changes(alias)]

    def check_db_alias(self, db_alias: str) -> None:
        if db_alias in connections:
            self.dialect(db_alias)
        super().check_db_alias(db_alias)

    def dialect(self, db_alias: str) -> SchemaDialect:
        """Return the classes of the database. Raise `Refused` if its tables cannot be changed online."""
        found = schema_dialect_of(db_alias)
        if found is None:
            raise Refused("online.database", f"Tables of database {db_alias!r} cannot be changed online.")
        return found

    def derivation(self, db_alias: str) -> Derivation:
        """Return the derivation of the plan on a database."""
        raise NotImplementedError

    def require_state(self, db_alias: str) -> None:
        """Raise `ActionRefused` if the database is not yet, or no longer, in the state that the change expects."""

    def require_revertible(self, db_alias: str) -> None:
        """Raise `Refused` if something needs the new definition."""

    def statements(self, db_alias: str) -> str:
        """Return the statements that alter the new table, for operators."""
        plan = self.derivation(db_alias).required_plan()
        return "\n".join(each % {"table": plan.table} for each in (plan.definition, *plan.statements) if each)

    def get_details_before_begin(self, db_alias: str) -> Sequence[Detail]:
        """Return the facts about a change that has not begun. Change nothing."""
        return ()

    def record(self, db_alias: str, *, is_applied: bool) -> None:
        """Record outside the ledger that the new table is in use, or no longer, in the transaction of the swap."""

    def swap(self, db_alias: str) -> TableSwap:
        """Return the statements for the tables."""
        return self.dialect(db_alias).swap(db_alias, self.derivation(db_alias), self.online.limits)

    def back(self, db_alias: str) -> TableSwap:
        """Return the statements for the way back. Raise `Refused` if there is none."""
        return self.dialect(db_alias).swap(db_alias, self.derivation(db_alias).reversed(), self.online.limits)

    def rows(self, db_alias: str) -> RowSynchronizer:
        """Return the statements for the rows."""
        return self.dialect(db_alias).rows(db_alias, self.derivation(db_alias).required_plan())

    # ---- The stages ----

    def get_stages(self) -> Sequence[Stage]:
        settle = {
            "get_queryset": self._logged_rows,
            "operation": self._resync,
            "batch_size": 1,
            "lock_rows": False,
            "on_error": "continue",
        }
        copy = self.mapped(
            get_queryset=self._origin_rows,
            operation_batch=self._copy,
            catch_up=False,
            first_batch_size=min(COPIED_FIRST, self.online.max_batch_size),
            batch_duration=self.online.batch_duration,
            max_batch_size=self.online.max_batch_size,
            max_batch_growth=COPY_GROWTH,
            throttle=[self.nice, *self.online.throttle],
        )
        stages: list[Stage] = [self.once(self._prepare, atomic=False, takes_context=True), copy, self.mapped(**settle)]
        for is_last in (False, True):
            verify = functools.partial(self._verify, is_last=is_last)
            chosen = functools.partial(self._rows_to_verify, is_last=is_last)
            stages.append(
                self.mapped(get_queryset=chosen, operation_batch=verify, catch_up=False, batch_size=VERIFIED_AT_ONCE)
            )
            stages.append(self.mapped(**settle))
        stages.append(self.once(self._make_ready, atomic=False, takes_context=True))
        if self.online.cutover == "manual":
            question = f"Put the new table in the place of {self.title}'s old one?"
            stages.append(self.wait(question, meanwhile=self._compare_again))
        stages.append(self.once(self._cut_over, atomic=False, takes_context=True))
        return stages

    def nice(self, batch: CompletedBatch) -> dt.timedelta:
        """Return how long the worker waits after a batch. Pages and commands show the name."""
        return min(batch.duration * self.online.nice, LONGEST_WAIT)

    def _origin_rows(self, db_alias: str) -> Any:
        return all_rows(self.derivation(db_alias).old_model, db_alias)

    def _rows_to_verify(self, db_alias: str, *, is_last: bool) -> Any:
        """Return all rows. For the last verification: only if the first one has found a difference."""
        change = ledger.require(db_alias, self.key)
        rows = self._origin_rows(db_alias)
        return rows.none() if is_last and not change.differences else rows

    def _logged_rows(self, db_alias: str, swap: TableSwap | None = None) -> Any:
        tables = (swap or self.swap(db_alias)).tables
        model = _log_model(self.app_label, tables.log_table, tuple(tables.plan.log_key))
        # With a condition that always holds: without one, the engine assumes that processed rows stay.
        return all_rows(model, db_alias).filter(id__gt=0)

    def _prepare(self, db_alias: str, context: StageContext) -> None:
        with self._definitions(db_alias, context):
            derivation, swap = self.derivation(db_alias), self.swap(db_alias)
            if ledger.get(db_alias, self.key) is None:
                self._refuse(db_alias)
            catalog = self.dialect(db_alias).catalog(db_alias)
            definition = catalog.read(derivation.required_plan().table)
            ledger.begin(
                db_alias,
                derivation.required_plan(),
                server_id=swap.tables.lock.server_id(),
                definition=definition.to_json() if definition else {},
            )
            if ledger.run_step(db_alias, self.key, "shadow", swap.tables.build):
                context.add_event("made the new table")

            def create_triggers() -> None:
                swap.tables.create_triggers()
                ledger.keep_triggers(db_alias, self.key, swap.tables.trigger_texts())

            if ledger.run_step(db_alias, self.key, "triggers", create_triggers):
                context.add_event("made the triggers")

    def _refuse(self, db_alias: str) -> None:
        """Raise `RefusedForReasons` if there is a reason against the change."""
        found = guard.refusals(self.derivation(db_alias), self.dialect(db_alias), db_alias)
        if found:
            raise RefusedForReasons(self.title, found)

    def _copy(self, queryset: Any, db_alias: str) -> None:
        self._agreed_rows(db_alias).copy(queryset)

    def _resync(self, row: Any, db_alias: str) -> None:
        rows = self._agreed_rows(db_alias)
        try:
            _resync(row, rows)
        except (IntegrityError, DataError) as error:
            # The failed object is an entry of the change log: only its message can name the row.
            raise type(error)(f"row {_shown_key(row, rows)} of {rows.plan.table}: {error}") from error

    def _verify(self, queryset: Any, db_alias: str, *, is_last: bool) -> None:
        found = self._agreed_rows(db_alias).verify(queryset)
        if found:
            ledger.add_differences(db_alias, self.key, found, is_last=is_last)

    def _make_ready(self, db_alias: str, context: StageContext) -> None:
        with self._definitions(db_alias, context):
            self._require_few_differences(ledger.require(db_alias, self.key))
            ledger.record_verified(db_alias, self.key)
            if ledger.run_step(db_alias, self.key, "ready", self.swap(db_alias).make_ready):
                context.add_event("the new table is ready")

    def _compare_again(self, db_alias: str) -> dt.timedelta:
        """Compare some of the rows while the change waits, once an hour all of them. Return when more is due."""
        change, until = ledger.require(db_alias, self.key), time.monotonic() + COMPARED_FOR
        due = change.verified_at + COMPARED_EVERY - timezone.now() if change.verified_at else dt.timedelta(0)
        if change.is_swapped or (not change.comparison and due > dt.timedelta(0)):
            return due
        found = change.comparison.get("found", 0)
        for last, count in self._parts(db_alias, change.comparison.get("last")):
            found += count
            if last is None:
                if found:
                    self._settle_now(db_alias)
                ledger.end_comparison(db_alias, self.key, found)
                return dt.timedelta(0) if found else COMPARED_EVERY
            ledger.keep_comparison(db_alias, self.key, last, found)
            waiting = MigrationRecord.objects.using(db_alias).filter(key=self.key, status=Status.WAITING)
            if time.monotonic() >= until or not waiting.exists():
                break
        return dt.timedelta(0)

    def _require_few_differences(self, change: OnlineChange) -> None:
        if change.differences_left or change.differences > self.online.max_differences:
            raise Refused(
                "online.differences",
                f"Verification found {change.differences_left or change.differences} rows that differ; allowed: "
                f"{self.online.max_differences}, and none after their repair. Something writes past the triggers, such "
                "as TRUNCATE on MariaDB and MySQL, or the copy is wrong. Find out what it was, abort the change, and "
                "start it again.",
            )

    def _cut_over(self, db_alias: str, context: StageContext) -> None:
        with self._definitions(db_alias, context):
            swap = self.swap(db_alias)
            if not swap.is_swapped():
                swap.recover()
                self._require_sound(db_alias)
                self._settle_now(db_alias)

            back = self.back(db_alias).tables if self.online.reverse_sync else None

            def record() -> None:
                self.record(db_alias, is_applied=True)
                ledger.record_swapped(db_alias, self.key, triggers=back.trigger_texts() if back else {})

            swap.swap(record, back)
            swap.finish(is_kept_current=back is not None)
            context.add_event("swapped the tables")

    def _require_sound(self, db_alias: str) -> None:
        """Raise `Refused` if rows may have been missed, or if the tables or the server are not what they were."""
        change, swap = ledger.require(db_alias, self.key), self.swap(db_alias)
        server = swap.tables.lock.server_id()
        if server != change.server_id:
            raise Refused(
                "online.server",
                f"The change began on the server {change.server_id}, and this is {server}. Abort it and start it "
                "again: rows may have been lost in the failover.",
            )
        if swap.tables.trigger_texts() != change.triggers:
            raise Refused(
                "online.triggers",
                "Triggers of the change are gone or were altered, so rows may have been missed. Abort it, and start it "
                "again.",
            )
        self._require_few_differences(change)
        catalog = self.dialect(db_alias).catalog(db_alias)
        altered = guard.alterations(
            catalog, change.table, TableDefinition.from_json(change.definition), change.triggers
        )
        if altered:
            raise RefusedForReasons(self.title, altered)
        if change.verified_at is None or timezone.now() - change.verified_at > VERIFIED_FOR:
            raise Refused(
                "online.not_verified",
                f"The tables were compared at {change.verified_at or 'no time'}; allowed: within {VERIFIED_FOR}. "
                f"Compare them: manage.py onlinemigration verify {self.app_label} {self.given_name}",
            )

    def _settle_now(self, db_alias: str, back: TableSwap | None = None) -> None:
        """Resync what has come into a log since the last stage, each row in a transaction of its own."""
        left = []
        rows = self.dialect(db_alias).rows(db_alias, back.plan) if back else self._agreed_rows(db_alias)
        for row in self._logged_rows(db_alias, back).order_by("id")[:1000]:
            try:
                with transaction.atomic(using=db_alias):
                    _resync(row, rows)
            except (IntegrityError, DataError) as error:
                left.append(f"{_shown_key(row, rows)} ({str(error).strip().splitlines()[0]})")
        if left:
            raise ConflictsLeft(
                "online.conflicts",
                f"{len(left)} rows do not fit the {'old' if back else 'new'} table: "
                f"{'; '.join(left[:NAMED_CONFLICTS])}. Correct them, and retry.",
            )

    @contextlib.contextmanager
    def _definitions(self, db_alias: str, context: StageContext) -> Iterator[None]:
        """Hold the lock of the change's definitions. Raise `NotNow` if another worker has it, or has another plan.

        A frozen worker that wakes up either still has the lock, so that nobody else has done anything, or has lost its
        connection, so that its next statement fails.
        """
        self._require_no_transaction(db_alias)
        with self.dialect(db_alias).lock(db_alias).definition_lock(tag_of(self.key)) as is_taken:
            if not is_taken or not context.is_current():
                raise NotNow(f"Another worker is changing the definitions of {self.key}.")
            self._require_agreement(ledger.get(db_alias, self.key), self.derivation(db_alias).required_plan())
            yield

    def _agreed_rows(self, db_alias: str) -> RowSynchronizer:
        rows = self.rows(db_alias)
        self._require_agreement(ledger.require(db_alias, self.key), rows.plan)
        return rows

    def _require_agreement(self, change: OnlineChange | None, plan: ChangePlan) -> None:
        """Raise `NotNow` if this worker has derived another plan than the one that the change began with."""
        if change is not None and change.fingerprint != plan.fingerprint:
            raise NotNow(
                f"{self.key} began with another plan: this worker has another version of the file. Deploy the version "
                "that it began with, or abort it."
            )

    # ---- What operators see and do ----

    def check_action(self, action: str, db_alias: str) -> None:
        change = ledger.get(db_alias, self.key)
        if action == "launch" and change is not None and change.reverted_at is not None:
            raise ActionRefused(f"{self.key} was reverted, and its new table is still there. Clean it up first.")
        if action == "launch" and change is None:
            self._require_no_transaction(db_alias)
            self.require_state(db_alias)
            self._refuse(db_alias)
        if action == "proceed":
            try:
                self._agreed_rows(db_alias)
            except NotNow as error:
                raise ActionRefused(str(error)) from error
            self._require_sound(db_alias)
        is_left = change is not None and change.has_leftovers and change.reverted_at is None
        if action in ("forget", "restart", "fake") and change is not None and is_left:
            verb = "Clean it up" if change.is_swapped else "Abort it"
            raise ActionRefused(f"Tables or triggers of {self.key} are in the database. {verb} first.")

    def _require_no_transaction(self, db_alias: str) -> None:
        if connections[db_alias].in_atomic_block:
            raise Refused(
                "online.transaction",
                f"{self.key} cannot be changed within a transaction, which would keep its locks. Call this outside "
                "atomic(), and in a view with non_atomic_requests.",
            )

    def get_details(self, db_alias: str) -> Sequence[Detail]:
        change = ledger.get(db_alias, self.key)
        if change is None:
            return self.get_details_before_begin(db_alias)
        swap = self.swap(db_alias)
        record = MigrationRecord.objects.using(db_alias).filter(key=self.key).first()
        stages = STAGES if self.online.cutover == "manual" else (*STAGES[:-2], STAGES[-1])
        stage = stages[record.stage] if record else ""
        if change.is_swapped:
            return list(details.after_swap(change, stage, swap, self.old_table_is_due_at(db_alias)))
        logged = self._logged_rows(db_alias) if "shadow" in change.steps else None
        return list(details.before_swap(change, stage, swap, logged=logged, sql=self.statements(db_alias)))

    def get_actions(self, db_alias: str, status: Status | None) -> Sequence[MigrationAction]:
        change = ledger.get(db_alias, self.key)
        if change is None or not change.has_leftovers:
            return ()
        if change.is_swapped:
            found = []
            plan = self.derivation(db_alias).plan
            if change.reverted_at is None and plan is not None and plan.reverse is not None:
                found.append(
                    MigrationAction(
                        name="revert",
                        label="Revert",
                        description="Puts the old table, which has all later writes, back in its place.",
                        call=self.revert,
                        permission="run",
                        is_irreversible=True,
                    )
                )
            if timezone.now() < self.old_table_is_due_at(db_alias) and change.reverted_at is None:
                return found
            return [
                *found,
                MigrationAction(
                    name="cleanup",
                    label="Clean up",
                    description="Drops the new table and the logs. The table stays as it was before the change."
                    if change.reverted_at is not None
                    else "Drops the old table and the change log. The old table cannot be used after that.",
                    call=self.clean_up,
                    permission="forget",
                    is_irreversible=True,
                ),
            ]
        return [
            MigrationAction(
                name="abort",
                label="Abort",
                description="Drops the new table, the change log and the triggers, and forgets the run.",
                call=self.abort,
                permission="forget",
                is_irreversible=True,
            )
        ]

    def clean_up(self, db_alias: str, actor: str) -> str:
        """Drop the old table and the change log. Raise `Refused` before the swap."""
        change = ledger.require(db_alias, self.key)
        if not change.is_swapped:
            raise Refused("online.not_swapped", f"{self.key} has not swapped the tables. To give it up, abort it.")
        with self._verb(db_alias):
            self.swap(db_alias).cleanup()
            if change.reverted_at is not None:
                ledger.forget(db_alias, self.key)
                return "The new table was dropped. The table is as it was before."
            ledger.record_cleaned(db_alias, self.key)
        return "The old table was dropped."

    def revert(self, db_alias: str, actor: str) -> str:
        """Put the old table, which was kept current, back in its place. Raise `Refused` if it was not."""
        change, back = ledger.require(db_alias, self.key), self.back(db_alias)
        if not change.is_swapped or change.cleaned_at is not None:
            state = "has been cleaned up" if change.is_swapped else "has not swapped the tables"
            raise Refused("online.revert", f"{self.key} {state}, so there is nothing to revert.")
        self.require_revertible(db_alias)
        with self._verb(db_alias):
            if not back.is_swapped():
                back.recover()
                if not change.triggers or back.tables.trigger_texts() != change.triggers:
                    raise Refused(
                        "online.triggers",
                        "Triggers that keep the old table current are gone or were altered, so it lacks rows. It "
                        "cannot be put back.",
                    )
                self._settle_now(db_alias, back)

            def record() -> None:
                self.record(db_alias, is_applied=False)
                ledger.record_reverted(db_alias, self.key)

            back.swap(record)
            back.finish()
        if MigrationRecord.objects.using(db_alias).filter(key=self.key).exists():
            api.forget(self.key, db_alias, actor=actor)
        return "The old table is in its place again. The new one is kept until the cleanup."

    def is_reverted(self, db_alias: str) -> bool:
        """Return whether the old table is in its place again."""
        return ledger.require(db_alias, self.key).reverted_at is not None

    def old_table_is_due_at(self, db_alias: str) -> dt.datetime:
        """Return until when the old table is kept."""
        change = ledger.require(db_alias, self.key)
        due: dt.datetime = (change.swapped_at or timezone.now()) + self.online.keep_old
        return due

    def abort(self, db_alias: str, actor: str) -> str:
        """Drop everything that was made, and forget the run. Raise `Refused` after the swap."""
        self._require_no_transaction(db_alias)
        self._require_not_swapped(db_alias)
        record = MigrationRecord.objects.using(db_alias).filter(key=self.key).first()
        if record is not None and record.status in (Status.QUEUED, Status.RUNNING, Status.PAUSED, Status.WAITING):
            api.cancel(self.key, db_alias, actor=actor)
        with self._verb(db_alias):
            self._require_not_swapped(db_alias)
            self.swap(db_alias).abort()
            ledger.forget(db_alias, self.key)
        if record is not None:
            api.forget(self.key, db_alias, actor=actor)
        return "Everything that the change has made was dropped. The table is as it was before."

    def _require_not_swapped(self, db_alias: str) -> None:
        change = ledger.get(db_alias, self.key)
        if self.swap(db_alias).is_swapped() or (change is not None and change.is_swapped):
            raise Refused("online.swapped", f"{self.key} has swapped the tables already. Clean it up instead.")

    def verify(self, db_alias: str) -> int:
        """Compare all rows now, and return the number of those that differ. Repair them, if all rows are copied."""
        change = ledger.require(db_alias, self.key)
        if "triggers" not in change.steps or change.is_swapped:
            when = "any more" if change.is_swapped else "yet"
            raise Refused("online.not_ready", f"{self.key} has no new table {when}.")
        found = sum(count for _, count in self._parts(db_alias, None))
        if "ready" in change.steps:
            if found:
                self._settle_now(db_alias)
            else:
                ledger.record_verified(db_alias, self.key)
        return found

    def copy_range(self, db_alias: str, start: Any = None, limit: Any = None) -> int:
        """Copy the rows with keys greater than `start`, up to `limit`, in this process, and return their number.

        Rows that the new table has are left as they are. The stages of the change copy the others, and compare all.
        """
        change = ledger.get(db_alias, self.key)
        if change is None:
            self.check_action("launch", db_alias)
        elif change.is_swapped:
            raise Refused("online.swapped", f"{self.key} has swapped the tables already.")
        self._prepare(db_alias, StageContext(key=self.key, db_alias=db_alias, attempt_id="", stage=0))
        rows, count = self._origin_rows(db_alias), 0
        keyset = Keyset.of(rows.model)
        last, end = (None if each is None else encode_key((each,)) for each in (start, limit))
        while keys := list(keyset.rows(keyset.page(rows, last, end))[: self.online.max_batch_size]):
            upper = encode_key(keys[-1])
            with transaction.atomic(using=db_alias):
                self._agreed_rows(db_alias).copy(keyset.page(rows, last, upper))
            last, count = upper, count + len(keys)
        return count

    def _parts(self, db_alias: str, last: list[Any] | None) -> Iterator[tuple[list[Any] | None, int]]:
        """Compare the rows after a key. Yield the last key of each part, or None, and how many rows differ in it."""
        rows = self._origin_rows(db_alias)
        keyset = Keyset.of(rows.model)
        while True:
            keys = list(keyset.rows(keyset.page(rows, last, None))[: self.online.max_batch_size])
            # Beyond the last key, there may be rows in the new table alone.
            upper = encode_key(keys[-1]) if keys else None
            yield upper, self.rows(db_alias).verify(keyset.page(rows, last, upper))
            if upper is None:
                return
            last = upper

    @contextlib.contextmanager
    def _verb(self, db_alias: str) -> Iterator[None]:
        self._require_no_transaction(db_alias)
        with self.dialect(db_alias).lock(db_alias).definition_lock(tag_of(self.key)) as is_taken:
            if not is_taken:
                raise ActionRefused(f"A worker is changing the definitions of {self.key}. Try again in a moment.")
            yield


class SchemaChange(TableChange):
    """The change by one Django migration, an `OnlineMigration`."""

    def __init__(self, file: SchemaMigrationFile) -> None:
        super().__init__(file.app_label, f"{file.name}.schema")
        self.file = file
        self.online = file.migration.online

    @property
    def description(self) -> str:
        return f"Online change of the schema migration {self.title}"

    @functools.cached_property
    def source_hash(self) -> str:
        # The statements depend on this package, too.
        return hashlib.sha256(self.file.source + version("massmigration-schema").encode()).hexdigest()

    @property
    def given_name(self) -> str:
        return self.file.name

    @property
    def source_path(self) -> Path | None:
        return self.file.path

    def derivation(self, db_alias: str) -> Derivation:
        return _derived(self.file, db_alias)

    def statements(self, db_alias: str) -> str:
        return _statements(self.file, db_alias)

    def get_details_before_begin(self, db_alias: str) -> Sequence[Detail]:
        return list(details.before_begin(self.derivation(db_alias), self.statements(db_alias)))

    def require_state(self, db_alias: str) -> None:
        """Raise `ActionRefused` unless exactly the migrations before this one are applied."""
        applied = MigrationRecorder(connections[db_alias]).applied_migrations()
        if (self.app_label, self.file.name) in applied:
            raise ActionRefused(f"Schema migration {self.title} is applied already.")
        missing = [f"{app}.{name}" for app, name in self.file.needed if (app, name) not in applied]
        if missing:
            raise ActionRefused(f"Apply {', '.join(missing)} first: manage.py migrate {self.app_label}")

    def require_revertible(self, db_alias: str) -> None:
        """Raise `Refused` if migrations that need this one are applied."""
        applied = MigrationRecorder(connections[db_alias]).applied_migrations()
        if later := [f"{app}.{name}" for app, name in self.file.dependent if (app, name) in applied]:
            raise Refused(
                "online.revert",
                f"Migrations that need {self.title} are applied: {', '.join(later)}. Reverse them first: manage.py "
                f"migrate {self.app_label} {self.file.name}",
            )

    def record(self, db_alias: str, *, is_applied: bool) -> None:
        recorder = MigrationRecorder(connections[db_alias])
        if not is_applied:
            recorder.record_unapplied(self.app_label, self.file.name)
        elif (self.app_label, self.file.name) not in recorder.applied_migrations():
            recorder.record_applied(self.app_label, self.file.name)


def schema_changes() -> list[SchemaChange]:
    """Return the changes of all schema migrations that are made online, for the loader."""
    return [SchemaChange(file) for file in online_migrations()]


@functools.lru_cache(maxsize=64)
def _statements(file: SchemaMigrationFile, db_alias: str) -> str:
    return details.statements(_derived(file, db_alias), db_alias)


@functools.lru_cache(maxsize=64)
def _derived(file: SchemaMigrationFile, db_alias: str) -> Derivation:
    return derive(file.migration, file.before(), db_alias)


def _resync(row: Any, rows: RowSynchronizer) -> None:
    key = _key(row, rows)
    rows.resync(key)
    same = dict(zip(rows.plan.log_key, key, strict=True))
    type(row).objects.using(rows.db_alias).filter(**same, id__lte=row.pk).delete()


def _key(row: Any, rows: RowSynchronizer) -> list[Any]:
    return [getattr(row, name) for name in rows.plan.log_key]


def _shown_key(row: Any, rows: RowSynchronizer) -> str:
    return ", ".join(map(str, _key(row, rows)))


@functools.lru_cache(maxsize=64)
def _log_model(app_label: str, table: str, key: tuple[str, ...]) -> type[models.Model]:
    """Return a change log as a model of no app. The values of the key are those that the database's driver returns."""
    meta = type(
        "Meta", (), {"app_label": app_label, "managed": False, "db_table": table, "apps": Apps(), "ordering": ()}
    )
    attributes = {
        "__module__": __name__,
        "Meta": meta,
        "id": models.BigAutoField(primary_key=True),
        **{name: models.Field() for name in key},
        "why": models.TextField(),
    }
    return type("LoggedRow", (models.Model,), attributes)
