"""A process that dies after any statement of a step. The next one makes it good."""

import contextlib
import re
import time

import pytest
from django.db import connections, migrations, models, transaction
from django.db.migrations.recorder import MigrationRecorder

from massmigration.definitions.stages import StageContext
from massmigration.exceptions import ActionRefused, NotNow
from massmigration_schema import ledger
from massmigration_schema.change import SchemaChange
from massmigration_schema.definition import differences
from testsupport.shop import TABLES, Change
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE

UNIQUE = migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))
ABOUT = migrations.RenameField("campaign", "description", "about")
OPERATIONS = [UNIQUE, ABOUT]
READS = re.compile(r"\s*(SELECT|SHOW|SET)\b(?!.*(GET_LOCK|setval))", re.IGNORECASE | re.DOTALL)


class Killed(BaseException):
    """The process is dead: it executes nothing any more, not even what undoes things."""


@contextlib.contextmanager
def killed_after(db_alias, count):
    """Die after so many statements that change something. Yield a list that is empty if there were fewer."""
    seen, deaths = [], []

    def wrapper(execute, sql, params, many, context):
        if deaths:
            raise Killed
        answer = execute(sql, params, many, context)
        if not READS.match(sql):
            seen.append(sql)
            if len(seen) == count:
                deaths.append(sql)
                raise Killed
        return answer

    connection = connections[db_alias]
    try:
        with connection.execute_wrapper(wrapper):
            yield deaths
    except Killed:
        pass
    finally:
        if deaths:
            connection.close()


def persistently(call):
    """Call something until the server has noticed that the dead process has lost its locks."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (NotNow, ActionRefused):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


class Making:
    """A change of a shop with rows and children, whose steps a test calls."""

    def __init__(self, shop, **options):
        self.shop = shop
        shop.drop()
        shop.state = type(shop.state)()
        shop.migrate(*TABLES)
        MigrationRecorder(shop.connection).ensure_schema()
        shop.fill(3)
        for campaign in shop.objects().all():
            shop.objects("Note").create(campaign_id=campaign.pk, text="n")
        self.before = shop.definition(), shop.definition("shop_note")
        self.change = SchemaChange(ShopFile(shop.migration(*OPERATIONS, **options), shop.state.clone()))
        self.context = StageContext(key=self.change.key, db_alias=shop.db_alias, attempt_id="", stage=0)
        self.direct = Change(shop, *OPERATIONS)

    def prepare(self):
        self.change._prepare(self.shop.db_alias, self.context)

    def copy(self):
        self.direct.copy()

    def make_ready(self):
        self.change._make_ready(self.shop.db_alias, self.context)

    def cut_over(self):
        self.change._cut_over(self.shop.db_alias, self.context)

    def revert(self):
        self.change.revert(self.shop.db_alias, "code:test")

    def clean_up(self):
        self.change.clean_up(self.shop.db_alias, "code:test")

    def abort(self):
        self.change.abort(self.shop.db_alias, "code:test")

    def write(self):
        """Write what the application writes, whichever definition the table has: a row, and a child of a parent."""
        names = self.shop.definition().columns
        column = "about" if "about" in names else "description"
        with transaction.atomic(self.shop.db_alias):
            self.shop.execute(f"UPDATE campaign SET {column} = 'written' WHERE name = 'name 1'")
            self.shop.execute(
                "INSERT INTO shop_note (campaign_id, text) SELECT id, 'w' FROM campaign WHERE name = 'name 2'"
            )

    def forget(self):
        ledger.forget(self.shop.db_alias, self.change.key)
        MigrationRecorder(self.shop.connection).record_unapplied("shop", "0002_change")


def kinds(listed):
    return [f"{each.code} {each.name}" for each in listed]


def trials(shop, dying, *, before, after, check, **options):
    """Die after each statement of a step in turn. Return how often, and what was wrong afterwards, by statement."""
    found, count = {}, 0
    while True:
        count += 1
        making = Making(shop, **options)
        for name in before:
            getattr(making, name)()
        with killed_after(shop.db_alias, count) as deaths:
            getattr(making, dying)()
        making.write()
        for name in after:
            persistently(getattr(making, name))
        problem = check(making)
        if problem:
            found[deaths[0] if deaths else "nothing"] = problem
        making.forget()
        if not deaths:
            return count - 1, found


@pytest.fixture(scope="module")
def plain():
    """The definitions after an ordinary `migrate`, by database."""
    return {}


def compare_with_plain(plain):
    def check(making):
        shop = making.shop
        if shop.db_alias not in plain:
            found = shop.definition(), shop.definition("shop_note")
            making.forget()
            shop.drop()
            shop.state = type(shop.state)()
            shop.migrate(*TABLES, *OPERATIONS)
            plain[shop.db_alias] = shop.definition(), shop.definition("shop_note")
        else:
            found = shop.definition(), shop.definition("shop_note")
        listed = [*differences(found[0], plain[shop.db_alias][0]), *differences(found[1], plain[shop.db_alias][1])]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    return check


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_prepare(shop, plain):
    def check(making):
        making.copy()
        making.make_ready()
        wrong = making.direct.wrong(name="name", post="post", about="description")
        logged = making.direct.logged()
        making.cut_over()
        making.clean_up()
        return wrong + logged + compare_with_plain(plain)(making)

    count, found = trials(shop, "prepare", before=[], after=["prepare"], check=check)

    assert found == {}
    assert count >= 8


@pytest.mark.slow
def test_a_process_that_dies_in_the_cutover(shop, plain):
    count, found = trials(
        shop,
        "cut_over",
        before=["prepare", "copy", "make_ready"],
        after=["cut_over", "clean_up"],
        check=compare_with_plain(plain),
    )

    assert found == {}
    assert count >= 8


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_the_cleanup(shop, plain):
    count, found = trials(
        shop,
        "clean_up",
        before=["prepare", "copy", "make_ready", "cut_over"],
        after=["clean_up"],
        check=compare_with_plain(plain),
    )

    assert found == {}
    assert count >= 2


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_a_cutover_that_can_be_reverted(shop):
    count, found = trials(
        shop,
        "cut_over",
        before=["prepare", "copy", "make_ready"],
        after=["cut_over", "write", "revert", "clean_up"],
        check=compare_with_before,
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 10


@pytest.mark.slow
def test_a_process_that_dies_in_a_revert(shop):
    count, found = trials(
        shop,
        "revert",
        before=["prepare", "copy", "make_ready", "cut_over", "write"],
        after=["revert", "clean_up"],
        check=compare_with_before,
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 5


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_the_cleanup_of_a_change_that_could_be_reverted(shop, plain):
    count, found = trials(
        shop,
        "clean_up",
        before=["prepare", "copy", "make_ready", "cut_over", "write"],
        after=["clean_up"],
        check=compare_with_plain(plain),
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 2


def compare_with_before(making):
    """Return what differs from the definitions and rows before the change, and what is left of it."""
    shop = making.shop
    listed = [
        *differences(shop.definition(), making.before[0]),
        *differences(shop.definition("shop_note"), making.before[1]),
    ]
    rows = sorted(shop.execute("SELECT name, description FROM campaign"))
    wrong = [] if rows == [("name 0", "d"), ("name 1", "written"), ("name 2", "d")] else [f"rows: {rows}"]
    return kinds(listed) + wrong + [str(orphan) for orphan in shop.catalog.orphans()]


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_an_abort(shop):
    def check(making):
        shop = making.shop
        listed = [
            *differences(shop.definition(), making.before[0]),
            *differences(shop.definition("shop_note"), making.before[1]),
        ]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    count, found = trials(shop, "abort", before=["prepare", "copy", "make_ready"], after=["abort"], check=check)

    assert found == {}
    assert count >= 3


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_change_whose_cutover_died_can_be_aborted_or_is_swapped(shop):
    def check(making):
        shop, alias = making.shop, making.shop.db_alias
        if making.change.swap(alias).is_swapped():
            persistently(making.cut_over)
            return [] if "about" in shop.definition().columns else ["not swapped"]
        persistently(making.abort)
        listed = [
            *differences(shop.definition(), making.before[0]),
            *differences(shop.definition("shop_note"), making.before[1]),
        ]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    count, found = trials(shop, "cut_over", before=["prepare", "copy", "make_ready"], after=[], check=check)

    assert found == {}
    assert count >= 8
