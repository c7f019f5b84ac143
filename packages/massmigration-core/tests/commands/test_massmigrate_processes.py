import os
import signal
import subprocess
import sys
import textwrap

import pytest
from django.db.models import Count

from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.oracle import calls, counts, make_items, rows
from testsupport.testapp.models import Call
from testsupport.threads import PATIENCE
from testsupport.worker_processes import wait_until

pytestmark = pytest.mark.slow

KEY = "testapp:0002_by_object"
ROWS = 300

SETTINGS = """
    import datetime as dt
    from massmigration.paging import sharding
    from testsupport.settings import *

    sharding.MIN_SHARD_SIZE = 1
    MASSMIGRATION_LEASE = dt.timedelta(seconds=2)
    MASSMIGRATION_BATCH_SIZE = 5
    MASSMIGRATION_MAX_BATCH_SIZE = 5
    if os.environ.get("TEST_QUEUE"):
        MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
"""


@pytest.fixture
def hurry(tmp_path):
    """The path of a file that ends all pauses of the operations."""
    return tmp_path / "hurry"


@pytest.fixture
def start(tmp_path, hurry):
    """Start `massmigrate` in a process of its own; kill what is left at the end."""
    (tmp_path / "command_settings.py").write_text(textwrap.dedent(SETTINGS))
    started = []

    def start(*arguments, pause=0.0, **environment):
        paths = [str(tmp_path), *filter(None, sys.path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "django", "massmigrate", *arguments],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "command_settings",
                "PYTHONPATH": os.pathsep.join(paths),
                "MM_TEST_PAUSE": str(pause),
                "MM_TEST_HURRY": str(hurry),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end_of(process):
    """Exit code, stdout and stderr, once the process and all that share its stderr have ended."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, stderr


def until(process, is_so):
    """Wait for what the process is to bring about, no longer than it lives."""
    wait_until(lambda: is_so() or process.poll() is not None)
    assert process.poll() is None, end_of(process)


def workers(db_alias):
    """Return the number of committed calls of each process."""
    found = Call.objects.using(db_alias).values_list("worker").annotate(Count("pk"))
    return {int(pid): count for pid, count in found}


def status(db_alias):
    return MigrationRecord.objects.using(db_alias).values_list("status", flat=True).first()


def assert_each_row_once(db_alias):
    assert counts(db_alias) == [1]
    assert calls(db_alias) == rows(db_alias)


def test_ctrl_c_pauses_at_a_batch_boundary_and_the_next_run_goes_on(db_alias, start):
    make_items(db_alias, ROWS)
    process = start(KEY, "--database", db_alias, pause=0.1)
    until(process, lambda: calls(db_alias))

    process.send_signal(signal.SIGINT)
    ended = end_of(process)

    done = len(calls(db_alias))
    assert ended[:2] == (130, "")
    assert f"{KEY} is paused after {done} rows. To continue: manage.py massmigrate testapp 0002_by_object" in ended[2]
    assert "Traceback" not in ended[2]
    assert 0 < done < ROWS
    assert status(db_alias) == Status.PAUSED
    assert not ShardRecord.objects.using(db_alias).exclude(lease_token=None).exists()

    code, stdout, stderr = end_of(start(KEY, "--database", db_alias))

    assert code == 0
    assert stderr.startswith(f"{KEY} was paused; continuing from where it stopped.\n")
    assert stdout.startswith(f"{KEY} applied: {ROWS} rows, the last {ROWS - done} of them in ")
    assert_each_row_once(db_alias)


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_sigterm_pauses_with_an_exit_code_of_its_own(db_alias, start):
    make_items(db_alias, ROWS)
    process = start(KEY, pause=0.1)
    until(process, lambda: calls(db_alias))

    process.terminate()
    code, _, stderr = end_of(process)

    assert code == 4
    assert f"{KEY} is paused after" in stderr
    assert status(db_alias) == Status.PAUSED


def test_a_second_ctrl_c_exits_at_once(db_alias, start):
    process = start("testapp:0001_once", "--database", db_alias, pause=0.5)
    until(process, lambda: ShardRecord.objects.using(db_alias).filter(fence=0).exclude(lease_token=None))
    process.send_signal(signal.SIGINT)
    assert "press Ctrl-C again" in process.stderr.readline()

    process.send_signal(signal.SIGINT)

    assert process.wait(PATIENCE) == 130
    assert calls(db_alias) == []


def test_ctrl_c_only_stops_watching_what_runs_on_a_queue(db_alias, start):
    process = start(KEY, "--database", db_alias, TEST_QUEUE="1")
    until(process, lambda: status(db_alias))

    process.send_signal(signal.SIGINT)
    code, _, stderr = end_of(process)

    assert code == 130
    assert "is no longer watched but continues." in stderr
    assert status(db_alias) == Status.QUEUED


def test_a_killed_process_is_replaced_and_its_rows_are_done_once(server_alias, start, hurry):
    make_items(server_alias, 2 * ROWS)
    process = start(KEY, "--database", server_alias, "--workers", "2", pause=0.1)
    until(process, lambda: len(workers(server_alias)) == 2)
    (helper,) = set(workers(server_alias)) - {process.pid}

    os.kill(helper, signal.SIGKILL)
    until(process, lambda: len(workers(server_alias)) == 3)
    hurry.touch()
    code, stdout, _ = end_of(process)

    assert code == 0
    assert stdout.startswith(f"{KEY} applied: {2 * ROWS} rows in ")
    assert len(workers(server_alias)) == 3
    assert_each_row_once(server_alias)


def test_processes_end_with_their_parent_and_the_next_command_goes_on(server_alias, start):
    make_items(server_alias, 2 * ROWS)
    process = start(KEY, "--database", server_alias, "--workers", "2", pause=0.1)
    until(process, lambda: len(workers(server_alias)) == 2)

    process.kill()
    code, _, _ = end_of(process)

    assert code == -signal.SIGKILL
    assert len(calls(server_alias)) < 2 * ROWS
    assert status(server_alias) == Status.RUNNING

    code, stdout, stderr = end_of(start(KEY, "--database", server_alias))

    assert code == 0
    assert "is already running; joining in." in stderr
    assert stdout.startswith(f"{KEY} applied: {2 * ROWS} rows, the last ")
    assert_each_row_once(server_alias)


def test_ctrl_c_in_a_command_that_joined_pauses_nobody_else(server_alias, start, hurry):
    make_items(server_alias, 2 * ROWS)
    first = start(KEY, "--database", server_alias, pause=0.1)
    until(first, lambda: calls(server_alias))
    second = start(KEY, "--database", server_alias, pause=0.1)
    until(second, lambda: second.pid in workers(server_alias))

    second.send_signal(signal.SIGINT)
    code, _, stderr = end_of(second)

    assert code == 130
    assert "The migration was started elsewhere and is not paused" in stderr
    hurry.touch()
    assert end_of(first)[0] == 0
    assert status(server_alias) == Status.APPLIED
    assert_each_row_once(server_alias)


def test_two_commands_at_once_share_the_work(server_alias, start, hurry):
    make_items(server_alias, 2 * ROWS)
    processes = [start(KEY, "--database", server_alias, pause=0.1) for _ in range(2)]
    until(processes[0], lambda: len(workers(server_alias)) == 2)
    hurry.touch()

    ends = [end_of(process) for process in processes]

    assert [code for code, _, _ in ends] == [0, 0]
    assert all(f"{KEY} applied: {2 * ROWS} rows" in stdout for _, stdout, _ in ends)
    assert len(workers(server_alias)) == 2
    assert_each_row_once(server_alias)


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_two_commands_at_once_do_each_row_once_on_sqlite_too(db_alias, start):
    make_items(db_alias, ROWS)

    ends = [end_of(each) for each in [start(KEY, pause=0.005) for _ in range(2)]]

    assert [code for code, _, _ in ends] == [0, 0]
    assert_each_row_once(db_alias)


def test_a_database_that_was_not_migrated_is_said_to_be_so(start):
    code, stdout, stderr = end_of(start(KEY, TEST_SQLITE_DIR=""))

    assert (code, stdout) == (1, "")
    assert stderr.splitlines() == [
        "CommandError: Database 'default' has no tables for mass migrations. Run: manage.py migrate --database default"
    ]
