import datetime as dt

import pytest
from django.db.models import F

from massmigration.migrations import MapperMigration
from massmigration_celery import CeleryBackend
from testsupport import oracle
from testsupport.celery_client import client_of
from testsupport.inline_migrations import launch, register
from testsupport.testapp.models import Item

ROWS = 300  # a recursion would fail at a sixth of this depth


@pytest.fixture
def app(settings):
    """An app without a broker."""
    settings.MASSMIGRATION_BACKEND = "massmigration_celery.CeleryBackend"
    with client_of("redis://127.0.0.1:1", task_always_eager=True, result_backend="cache+memory://") as app:
        yield app


class OneByOne(MapperMigration):
    batch_size = 1

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save()


def test_nothing_is_held_back(app):
    assert not CeleryBackend().supports_delay


@pytest.mark.slow
@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_a_migration_of_very_many_jobs_ends_applied(app, db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_MAX_BATCH_SIZE = 1
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    oracle.make_items(db_alias, ROWS)

    record = launch(register(monkeypatch, OneByOne), db_alias)

    assert (record.status, record.last_error) == ("applied", "")
    assert oracle.counts(db_alias) == [1]
    assert oracle.verbs(db_alias) == ["launch", "plan", "applied"]
