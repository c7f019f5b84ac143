"""Writers beside a change whose workers are killed, and an oracle over all rows."""

import time

import pytest

from massmigration import api
from massmigration.states import Status
from massmigration_schema import reports
from testsupport.online.batches import note_batches
from testsupport.online.fleets import keep_doubling, online_fleet
from testsupport.online.run import Faults, OnlineRun
from testsupport.online.scene import KEY, LOADED_TABLES, OPERATIONS, STEP, LoadedShop
from testsupport.online.verdict import judge
from testsupport.online.writers import Writers
from testsupport.shop import Reader
from testsupport.shop_app import installed
from testsupport.threads import PATIENCE

ROWS = 5_000

pytestmark = pytest.mark.slow


@pytest.fixture
def loaded(server_alias):
    """The tables of the load test, with rows."""
    made = LoadedShop(server_alias)
    made.make(ROWS)
    yield made
    made.drop()


@pytest.fixture
def run(loaded, tmp_path):
    """A change of them by processes of `massmigrate`, whose jobs are doubled."""
    with (
        installed(loaded, tmp_path, OPERATIONS, tables=LOADED_TABLES, direct_up_to=0, max_batch_size=200),
        online_fleet("local", loaded.db_alias, tmp_path, equipment=[note_batches, keep_doubling]) as fleet,
    ):
        yield OnlineRun(fleet, loaded, workers=2, patience=PATIENCE)


def test_nothing_is_lost_beside_writers_when_workers_are_killed(loaded, run):
    with Writers(loaded.db_alias, ROWS, rate=30, in_processes=False) as writers:
        run.copy(Faults(kills=1, pauses=1))
        run.compare()
        run.cut_over()
        reports = writers.stop()

    verdict = judge(loaded, ROWS, reports)
    assert not run.is_too_late
    assert verdict.bad_rows == 0, verdict
    assert not verdict.errors
    assert verdict.copied_twice == 0
    assert all(report.rows for report in reports)


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_the_oracle_finds_every_kind_of_bad_row(loaded, run):
    run.copy(Faults())
    run.compare()
    run.cut_over()
    with Writers(loaded.db_alias, ROWS, rate=100, in_processes=False) as writers:
        reports = writers.stop()
    assert judge(loaded, ROWS, reports).bad_rows == 0
    reports[0].rows.update({STEP: None, 2 * STEP: ("another name", 1, 2)})
    reports[0].notes["lost"] = 1
    loaded.execute(f"DELETE FROM campaign WHERE id = {3 * STEP}")
    loaded.execute(f"UPDATE campaign SET id = -1 WHERE id = {4 * STEP}")
    loaded.execute("INSERT INTO load_batch SELECT * FROM load_batch ORDER BY low LIMIT 1")

    verdict = judge(loaded, ROWS, reports)

    assert verdict.back_to_life == [STEP]
    assert verdict.wrong == [2 * STEP]
    assert verdict.missing == [3 * STEP, 4 * STEP]
    assert verdict.unknown == [-1]
    assert verdict.children == ["(1, 'lost')"]
    assert verdict.copied_twice > 0


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_worker_that_is_killed_in_the_cutover_needs_no_operator(shop, tmp_path):
    shop.fill(3)
    unique = 'migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))'
    with (
        installed(shop, tmp_path, unique, direct_up_to=0, cutover="auto"),
        online_fleet("local", shop.db_alias, tmp_path) as fleet,
    ):
        change = reports.find("shop", "0002")
        # The cutover makes strict triggers, then waits for the lock of a child.
        with Reader(shop.db_alias, "shop_note"):
            # It launches the change, so that no thread of this process works on it.
            killed = fleet.begin()
            wait_until(lambda: "Interrupted cutover" in labels(change, shop), lambda: killed.log.read_text())
            killed.kill()
        assert "Interrupted cutover" in labels(change, shop)

        second = fleet.begin()
        wait_until(lambda: is_applied(shop), lambda: second.log.read_text())
        second.wait()

        assert "Interrupted cutover" not in labels(change, shop)


def is_applied(shop):
    return api.status(KEY, shop.db_alias).status is Status.APPLIED


def labels(change, shop):
    return [detail.label for detail in change.get_details(shop.db_alias)]


def wait_until(is_true, text):
    until = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < until, text()
        time.sleep(0.1)
