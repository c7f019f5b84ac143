"""A connection with another schema than that of other threads, as in a schema_context of django-tenants."""

import io
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from massmigration import api
from massmigration.executor import job as executor_job
from massmigration.executor import planner
from massmigration.jobs import Job, JobKind
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE
from testsupport.oracle import counts, make_items

KEY = "testapp:0002_by_object"
PG = "postgresql"

pytestmark = pytest.mark.parametrize("db_alias", [PG], indirect=True)


def execute(sql):
    with connections[PG].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture
def tenant(db_alias):
    """Tables of the records in a separate schema for this thread's connection; others use the schema `public`."""
    tables = [name for (name,) in execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'massmigration%'")]
    execute("CREATE SCHEMA tenant")
    for table in tables:
        execute(f"CREATE TABLE tenant.{table} (LIKE public.{table} INCLUDING ALL)")
    execute("SET search_path TO tenant, public")
    yield
    connections[PG].close()
    execute("DROP SCHEMA tenant CASCADE")


def records(schema):
    return execute(f"SELECT status FROM {schema}.massmigration_migrationrecord")


def test_a_command_whose_threads_do_not_see_the_record_ends_with_advice(tenant, caplog):
    make_items(PG, 5)

    with pytest.raises(CommandError) as caught:
        call_command("massmigrate", KEY, database=PG, stdout=io.StringIO(), stderr=io.StringIO())

    assert "their connections do not see its record, but this connection does" in str(caught.value)
    assert f"It is now paused. Run it in one thread: with MASSMIGRATION_BACKEND = '{IMMEDIATE}'" in str(caught.value)
    assert f"massmigration.api.resume('{KEY}')" in str(caught.value)
    assert (records("tenant"), records("public")) == ([("paused",)], [])
    assert caplog.text.count("it has no record here") == 1


def test_a_run_that_was_begun_elsewhere_is_left_as_it_is(tenant, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    make_items(PG, 5)
    api.launch(KEY, PG)

    with pytest.raises(CommandError, match=re.escape("Nothing was changed. Run it in one thread")):
        call_command("massmigrate", KEY, database=PG, local=True, stdout=io.StringIO(), stderr=io.StringIO())

    assert records("tenant") == [("queued",)]


def test_the_advice_helps(tenant, settings):
    make_items(PG, 5)
    with pytest.raises(CommandError):
        call_command("massmigrate", KEY, database=PG, stdout=io.StringIO(), stderr=io.StringIO())
    settings.MASSMIGRATION_BACKEND = IMMEDIATE

    api.resume(KEY, PG)

    assert (records("tenant"), records("public")) == ([("applied",)], [])
    assert counts(PG) == [1]


def test_an_immediate_backend_stays_in_the_schema_of_its_thread(tenant, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    make_items(PG, 5)

    api.launch(KEY, PG)

    assert (records("tenant"), records("public")) == ([("applied",)], [])
    assert counts(PG) == [1]
    assert ShardRecord.objects.using(PG).get().processed == 5


@pytest.mark.parametrize("kind", JobKind)
def test_a_job_that_sees_no_tables_says_so_once_and_is_dropped(db_alias, settings, caplog, kind):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, PG)
    attempt_id = str(MigrationRecord.objects.using(PG).get().attempt_id)
    job = Job(kind=kind, key=KEY, db_alias=PG, attempt_id=attempt_id)
    execute("SET search_path TO nowhere")

    answers = [executor_job.run(job, None) for _ in range(3)]

    connections[PG].close()
    assert answers == [None] * 3
    assert caplog.text.count("it has no record here") == 1
    assert attempt_id in planner.unseen
    assert MigrationRecord.objects.using(PG).get().status == Status.QUEUED
