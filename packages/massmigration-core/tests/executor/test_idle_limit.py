import datetime as dt
import time

import pytest

from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Item


class Slow(MapperMigration):
    idle_limit = dt.timedelta(seconds=1)
    lasts = 1.6
    times = 99

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        if self.times:
            self.times -= 1
            time.sleep(self.lasts)
        Item.objects.using(db_alias).filter(pk=obj.pk).update(n=1)


@pytest.fixture(autouse=True)
def item(server_alias, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Item.objects.using(server_alias).create(name="One")


def test_an_operation_that_always_exceeds_the_idle_limit_fails_with_advice(server_alias, monkeypatch):
    record = launch(register(monkeypatch, Slow), server_alias)

    assert record.status == Status.FAILED
    assert record.last_error.startswith("IdleLimitExceeded: The operation left its connection idle for longer than")
    assert "Set a longer idle_limit on the migration" in record.last_error
    assert FailedObject.objects.using(server_alias).get().exception_class.endswith("IdleLimitExceeded")


def test_exceeding_it_once_is_no_failure(server_alias, monkeypatch):
    record = launch(register(monkeypatch, type("Once", (Slow,), {"times": 1})), server_alias)

    assert record.status == Status.APPLIED
    assert Item.objects.using(server_alias).get().n == 1
