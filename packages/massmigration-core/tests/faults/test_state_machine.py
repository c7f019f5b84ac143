"""Operators' actions and deliveries in any order, with a crash between any two statements."""

import contextlib

import pytest
from django.db.models import F, Sum
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from massmigration import api
from massmigration.exceptions import MassMigrationError
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, ShardRecord
from massmigration.states import Status
from massmigration.testing.engine_runs import Faults, Killed, Run
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

ROWS = 14
BATCH = 3
ACTIONS = {"pause": api.pause, "resume": api.resume, "cancel": api.cancel, "retry": api.retry, "restart": api.restart}

places = strategies.integers(min_value=0, max_value=100)
statements = strategies.integers(min_value=0, max_value=40)


class Counting(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)


class Crash(Faults):
    """Ends the process before one statement of it."""

    def __init__(self):
        self.left = None

    def before_statement(self, run, sql, params):
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            run.die()
        self.left -= 1


class Machine(RuleBasedStateMachine):
    def __init__(self, db_alias):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.run = Run(Counting, "testapp:9001_counting", db_alias, batch=BATCH)
        self.run.queue.shards = 2
        self.run.faults = self.crash = Crash()
        self.stack.enter_context(self.run.prepared())
        self.delivered = []

    @property
    def items(self):
        return Item.objects.using(self.run.db_alias)

    @property
    def queue(self):
        return self.run.queue.payloads

    @initialize()
    def launch(self):
        self.run.forget()
        self.items.all().delete()
        make_items(self.run.db_alias, ROWS)
        self.run.act(api.launch)

    @rule(place=places)
    def deliver(self, place):
        self.perform(place, is_removed=True)

    @rule(place=places)
    def deliver_and_keep(self, place):
        self.perform(place, is_removed=False)

    @rule(place=places, left=statements)
    def deliver_and_crash(self, place, left):
        self.crash.left = left
        self.perform(place, is_removed=False)
        self.crash.left = None

    @rule(place=places)
    def deliver_again(self, place):
        if self.delivered:
            self.run.perform(self.delivered[place % len(self.delivered)])

    @rule(place=places)
    def lose(self, place):
        if self.queue:
            del self.queue[place % len(self.queue)]

    @rule()
    def recover(self):
        self.run.recover()

    @rule(name=strategies.sampled_from(sorted(ACTIONS)))
    def act(self, name):
        with contextlib.suppress(MassMigrationError):
            self.run.act(ACTIONS[name])
            self.begin_again(name)

    @rule(name=strategies.sampled_from(sorted(ACTIONS)), left=statements)
    def act_and_crash(self, name, left):
        before = self.run.record.attempt_id
        self.crash.left = left
        with contextlib.suppress(MassMigrationError, Killed):
            self.run.act(ACTIONS[name], is_exposed=True)
        self.crash.left = None
        self.run.restart_worker()
        if self.run.record.attempt_id != before:
            self.begin_again(name)

    @invariant()
    def no_row_is_done_twice_and_the_shards_know(self):
        found = list(self.items.values_list("n", flat=True))
        counted = ShardRecord.objects.using(self.run.db_alias).aggregate(n=Sum("processed", default=0))["n"]

        assert set(found) <= {0, 1}
        assert sum(found) == counted
        assert not FailedObject.objects.using(self.run.db_alias).exists()

    def begin_again(self, name):
        """Forget what was counted before a restart, after which no batch of the old attempt commits."""
        if name == "restart":
            self.items.update(n=0)

    def perform(self, place, *, is_removed):
        if not self.queue:
            return
        place %= len(self.queue)
        payload = self.queue[place]
        if is_removed:
            del self.queue[place]
        self.delivered.append(payload)
        self.run.perform(payload)

    def teardown(self):
        """Let everything end well: the migration is then applied, and each row was processed once."""
        try:
            if self.items.exists():
                if self.run.status == Status.PAUSED:
                    self.run.act(api.resume)
                elif self.run.status == Status.CANCELLED:
                    self.run.act(api.retry)
                self.run.work()
                assert self.run.status == Status.APPLIED
                assert list(self.items.values_list("n", flat=True)) == [1] * ROWS
        finally:
            self.stack.close()


@pytest.mark.slow
@pytest.mark.parametrize("db_alias", ["default", "postgresql"], indirect=True, ids=["sqlite", "postgresql"])
def test_whatever_happens_in_any_order_each_row_is_done_once(db_alias):
    run_state_machine_as_test(
        lambda: Machine(db_alias),
        settings=settings(
            max_examples=10 if db_alias == "default" else 4,
            stateful_step_count=20,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
