import threading
import time

import pytest
from django.db import DatabaseError, DataError, IntegrityError, connections, migrations, models, transaction
from django.db.models.lookups import Exact

from testsupport.shop import Change, Journal, check
from testsupport.threads import PATIENCE, Gate, in_thread, in_threads, wait_until_blocked

TEXT = models.CharField
MANY = 400


def alter(name, field):
    return migrations.AlterField("campaign", name, field)


def add(name, field):
    return migrations.AddField("campaign", name, field)


EXAMPLE = [
    migrations.RenameField("campaign", "description", "about"),
    migrations.RemoveField("campaign", "starts_at"),
    migrations.RemoveIndex("campaign", "campaign_start"),
    alter("budget", models.DecimalField(max_digits=14, decimal_places=3)),
    add("likes", models.IntegerField(default=7)),
]
COLUMNS = {"about": "description", "budget": "budget", "likes": "7", "name": "name", "post": "post", "goal": "goal"}
"""The new columns, each with what it must be."""

UNIQUE = [alter("post", TEXT(max_length=128, null=True, unique=True))]
SHORT = [alter("post", TEXT(max_length=5, null=True))]


@pytest.fixture
def change(shop):
    return Change(shop, *EXAMPLE[1:3][::-1], *EXAMPLE[:1], *EXAMPLE[3:])


class Writer:
    """A transaction in another thread that has executed a statement and is held open."""

    def __init__(self, shop, sql, *, commits=True):
        self._shop, self._sql, self._commits = shop, sql, commits
        self._gate = Gate()

    def __enter__(self):
        self._future = in_thread(self._write)
        self._gate.await_arrivals()
        return self

    def __exit__(self, *error):
        self.end()

    def _write(self):
        with transaction.atomic(self._shop.db_alias), connections[self._shop.db_alias].cursor() as cursor:
            cursor.execute(self._sql)
            self._gate.wait()
            if not self._commits:
                transaction.set_rollback(True, self._shop.db_alias)

    def end(self):
        self._gate.open()
        self._future.result(PATIENCE)


def first_keys(shop, count=3):
    return list(shop.objects().order_by("pk").values_list("pk", flat=True)[:count])


def test_a_copy_has_every_row(shop, change):
    shop.fill(20)
    change.prepare()

    change.copy()

    assert change.wrong(**COLUMNS) == []
    assert change.logged() == []
    assert change.verify() == 0


def test_a_copy_of_a_range_has_its_rows_only(shop, change):
    shop.fill(10)
    first, *_, last = shop.objects().order_by("pk").values_list("pk", flat=True)
    change.prepare()

    change.copy(first + 2, last - 2)

    assert change.wrong(**COLUMNS) == [first, first + 1, last - 1, last]


def test_a_copy_can_be_repeated(shop, change):
    shop.fill(10)
    change.prepare()

    change.copy()
    change.copy()

    assert change.wrong(**COLUMNS) == []


WRITES = {
    "insert": "INSERT INTO campaign (id, name, objective, description, budget, data) VALUES (1000, 'n', 'o', 'x', "
    "3, '{}')",
    "update": "UPDATE campaign SET description = 'new', goal = NULL, budget = budget + 1",
    "update of one": "UPDATE campaign SET goal = 17 WHERE id = (SELECT low FROM (SELECT min(id) AS low FROM "
    "campaign) x)",
    "delete": "DELETE FROM campaign WHERE name = 'name 3'",
    "another key": "UPDATE campaign SET id = id + 5000 WHERE name = 'name 3'",
    "a key below": "UPDATE campaign SET id = -7 WHERE name = 'name 3'",
}


@pytest.mark.parametrize("when", ["before the copy", "after the copy", "in the middle"])
@pytest.mark.parametrize("sql", WRITES.values(), ids=WRITES)
def test_every_write_arrives_in_the_new_table(shop, change, sql, when):
    shop.fill(10)
    middle = first_keys(shop, 5)[-1]
    change.prepare()
    steps = {
        "before the copy": [lambda: shop.execute(sql), change.copy],
        "after the copy": [change.copy, lambda: shop.execute(sql)],
        "in the middle": [
            lambda: change.copy(-(2**31), middle),
            lambda: shop.execute(sql),
            lambda: change.copy(middle + 1),
        ],
    }

    for step in steps[when]:
        step()
    change.copy(-(2**31))

    assert change.wrong(**COLUMNS) == []
    assert change.verify(-(2**31)) == 0


def test_a_write_that_is_rolled_back_does_not_arrive(shop, change):
    shop.fill(3)
    change.prepare().copy()

    with Writer(shop, WRITES["update"], commits=False):
        pass

    assert change.wrong(**COLUMNS) == []


def test_a_truncation_arrives_on_postgresql_and_is_found_on_mariadb(shop, change):
    shop.fill(3)
    change.prepare().copy()

    if shop.is_postgresql:
        shop.execute("TRUNCATE campaign CASCADE")
        assert shop.execute(f"SELECT count(*) FROM {change.shadow}") == [(0,)]
        return
    shop.execute("SET SESSION foreign_key_checks = 0")
    shop.execute("TRUNCATE campaign")
    shop.execute("SET SESSION foreign_key_checks = 1")
    assert change.verify() == 3
    assert {why for _, why in change.logged()} == {"verify: not in the old table"}


def test_a_row_that_a_writer_holds_is_logged_and_not_waited_for(shop, change):
    shop.fill(10)
    key = first_keys(shop)[1]
    change.prepare()

    with Writer(shop, f"UPDATE campaign SET description = 'held' WHERE id = {key}"):
        change.copy()

        assert change.logged() == [(key, "locked by a writer")]
        assert shop.execute(f"SELECT count(*) FROM {change.shadow}") == [(9,)]
    change.settle()

    assert change.wrong(**COLUMNS) == []
    assert change.logged() == []


def test_a_writer_waits_for_the_copy_and_its_write_arrives(shop, change):
    shop.fill(10)
    change.prepare()
    statements = [WRITES["update"], WRITES["delete"]]

    for sql in statements:
        with transaction.atomic(shop.db_alias):
            change.rows.copy(change.batch())
            writer = in_thread(shop.execute, sql)
            wait_until_blocked(shop.db_alias)
        writer.result(PATIENCE)

    assert change.wrong(**COLUMNS) == []


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_row_that_is_inserted_while_the_copy_reads_is_not_copied_again(shop, change):
    shop.fill(3)
    change.prepare()
    waits = models.Func(
        models.Value("massmigration_tests"), models.Value(60), function="GET_LOCK", output_field=models.IntegerField()
    )

    def copy():
        with transaction.atomic(shop.db_alias):
            # The copy waits at the second row, when it has begun to read both tables.
            waits_there = models.Case(models.When(pk=first_keys(shop)[1], then=waits), default=1)
            change.rows.copy(change.batch().filter(Exact(waits_there, 1)))
        shop.connection.close()

    shop.execute("SELECT GET_LOCK('massmigration_tests', 0)")
    try:
        copying = in_thread(copy)
        wait_until_it_waits(shop, copying)
        shop.execute(WRITES["insert"])
    finally:
        shop.execute("SELECT RELEASE_LOCK('massmigration_tests')")
    copying.result(PATIENCE)

    assert change.wrong(**COLUMNS) == []
    assert change.logged() == []


def wait_until_it_waits(shop, copying):
    """Wait until the session that copies waits for the test's lock."""
    until = time.monotonic() + PATIENCE
    database = shop.connection.settings_dict["NAME"]
    while not any({"User lock", database} <= {*map(str, row)} for row in shop.execute("SHOW PROCESSLIST")):
        if copying.done():
            raise AssertionError("It did not wait.") from copying.exception()
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- Resync ----


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE {shadow} SET about = 'wrong' WHERE id = {key}",
        "DELETE FROM {shadow} WHERE id = {key}",
        "SELECT 1",
    ],
)
def test_a_resync_makes_the_row_what_it_is(shop, change, damage):
    shop.fill(3)
    change.prepare().copy()
    key = first_keys(shop)[0]
    shop.execute(damage.format(shadow=change.shadow, key=key))

    change.resync(key)

    assert change.wrong(**COLUMNS) == []


def test_a_resync_deletes_a_row_that_is_not_in_the_old_table(shop, change):
    shop.fill(3)
    change.prepare().copy()
    shop.execute(f"UPDATE {change.shadow} SET id = 999 WHERE id = {first_keys(shop)[0]}")

    change.resync(999)

    assert change.wrong(**COLUMNS) == first_keys(shop, 1)


@pytest.mark.parametrize("write", ["insert", "delete", "move", "update"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_resync_and_a_writer_of_the_same_key_end_with_equal_rows(shop, change, write, is_first):
    shop.fill(3)
    change.prepare().copy()
    key = first_keys(shop)[0]
    sql = {
        "insert": WRITES["insert"],
        "delete": f"DELETE FROM campaign WHERE id = {key}",
        "move": f"UPDATE campaign SET id = 2000 WHERE id = {key}",
        "update": f"UPDATE campaign SET description = 'new' WHERE id = {key}",
    }[write]
    keys = {"insert": [1000], "move": [key, 2000]}.get(write, [key])

    def resync():
        # A resync that had to give way is tried again, as the engine does.
        for each in keys:
            for _ in range(100):
                try:
                    change.resync(each)
                    break
                except DatabaseError:
                    connections[shop.db_alias].close()

    if is_first:
        with transaction.atomic(shop.db_alias):
            change.rows.resync([keys[0]])
            writer = in_thread(shop.execute, sql)
            if write != "insert":  # a row that is nowhere cannot be locked
                wait_until_blocked(shop.db_alias)
        writer.result(PATIENCE)
    else:
        with Writer(shop, sql):
            resyncing = in_thread(resync)
            if write != "insert":
                wait_until_blocked(shop.db_alias)
        resyncing.result(PATIENCE)

    assert change.wrong(**COLUMNS) == []


def test_a_row_that_was_left_out_is_resynced_after_its_writer_has_committed(shop, change):
    shop.fill(3)
    key = first_keys(shop)[1]
    change.prepare()

    with Writer(shop, f"UPDATE campaign SET description = 'held' WHERE id = {key}"):
        change.copy()
        resyncing = in_thread(settle_persistently, shop, change, key)
        wait_until_blocked(shop.db_alias)
    resyncing.result(PATIENCE)

    assert change.wrong(**COLUMNS) == []


def settle_persistently(shop, change, key):
    """Resync a row; try again when it had to give way, as the engine does."""
    for _ in range(100):
        try:
            return change.resync(key)
        except DatabaseError:
            connections[shop.db_alias].close()
    raise AssertionError("It always had to give way.")


# ---- Rows that do not fit ----


def test_a_write_that_does_not_fit_succeeds_and_is_logged(shop):
    shop.fill(3)
    change = Change(shop, *SHORT).prepare()
    change.copy()
    first, second, _ = first_keys(shop)

    shop.execute("UPDATE campaign SET post = 'much too long' WHERE id = %s", [first])
    shop.execute("UPDATE campaign SET post = 'much too long', id = 3000 WHERE id = %s", [second])
    shop.execute(WRITES["insert"].replace("'{}'", "'{}', 'too long'").replace("data)", "data, post)"))

    assert [key for key, _ in change.logged()] == [first, 3000, 1000]
    assert all("long" in why for _, why in change.logged())
    assert change.wrong(name="name", post="post") == [first, 1000, 3000]


def test_a_duplicate_is_logged_and_settled_when_it_is_gone(shop):
    shop.fill(3)
    change = Change(shop, *UNIQUE).prepare()
    change.copy()
    first, second, _ = first_keys(shop)
    shop.execute("UPDATE campaign SET post = 'p' WHERE id = %s", [first])
    shop.execute("UPDATE campaign SET post = 'p' WHERE id = %s", [second])

    assert [key for key, _ in change.logged()] == [second]
    with pytest.raises(IntegrityError):
        change.resync(second)
    shop.execute("UPDATE campaign SET post = 'q' WHERE id = %s", [second])
    change.settle()

    assert change.logged() == []
    assert change.wrong(name="name", post="post") == []


def test_a_copy_of_a_row_that_does_not_fit_fails(shop):
    shop.fill(3)
    shop.execute("UPDATE campaign SET post = 'much too long' WHERE id = %s", first_keys(shop, 1))
    change = Change(shop, *SHORT).prepare()

    with pytest.raises(DatabaseError, match="long"):
        change.copy()


def test_a_check_that_a_row_violates_is_logged(shop):
    shop.fill(3)
    change = Change(shop, migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0)))).prepare()
    change.copy()
    (first,) = first_keys(shop, 1)

    shop.execute("UPDATE campaign SET budget = -1 WHERE id = %s", [first])

    assert [key for key, _ in change.logged()] == [first]


CONVERSIONS = {
    "to a number": models.IntegerField(null=True),
    "to a decimal number": models.DecimalField(max_digits=8, decimal_places=2, null=True),
    "to a date": models.DateField(null=True),
    "to a time": models.TimeField(null=True),
    "to a date and time": models.DateTimeField(null=True),
    "to json": models.JSONField(null=True),
}


@pytest.mark.parametrize("field", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_write_that_cannot_be_converted_is_logged(shop, field):
    shop.fill(2)
    change = Change(shop, alter("post", field)).prepare()
    change.copy()
    (first,) = first_keys(shop, 1)

    shop.execute("UPDATE campaign SET post = 'neither' WHERE id = %s", [first])

    assert [key for key, _ in change.logged()] == [first]
    assert shop.execute(f"SELECT post FROM {change.shadow}") == [(None,)] * 2


def test_null_becomes_the_default_and_never_an_empty_value(shop):
    shop.fill(2)
    change = Change(shop, alter("post", TEXT(max_length=128, default="100 % 'new'"))).prepare()
    change.copy()
    shop.fill(1)

    assert change.wrong(post="COALESCE(post, '100 % ''new''')") == []
    assert change.verify() == 0


def test_a_dropped_new_table_does_not_make_the_application_fail(shop, change):
    if shop.is_postgresql:
        pytest.skip("A trigger's function cannot pass over this on PostgreSQL.")
    shop.fill(3)
    change.prepare()
    shop.execute(f"DROP TABLE {change.shadow}")

    for sql in WRITES.values():
        shop.execute(sql)

    assert shop.objects().filter(name="name 0", description="new").count() == 1


def test_strict_triggers_refuse_what_does_not_fit(shop):
    if shop.is_postgresql:
        pytest.skip("PostgreSQL has the lock of the table during the swap.")
    shop.fill(3)
    change = Change(shop, *SHORT).prepare()
    change.copy()
    change.tables.make_strict()
    first, second, third = first_keys(shop)

    statements = [
        f"UPDATE campaign SET post = 'much too long' WHERE id = {first}",
        f"UPDATE campaign SET post = 'much too long', id = 4000 WHERE id = {second}",
        f"UPDATE campaign SET post = CASE id WHEN {first} THEN 'short' ELSE 'much too long' END",
        WRITES["insert"].replace("data)", "data, post)").replace("'{}')", "'{}', 'much too long')"),
    ]
    for sql in statements:
        with pytest.raises(DataError, match="too long"):
            shop.execute(sql)

    shop.execute(f"UPDATE campaign SET post = 'fits' WHERE id = {first}")
    shop.execute(f"UPDATE campaign SET post = 'moves', id = 5000 WHERE id = {third}")
    shop.execute(WRITES["insert"])
    assert change.logged() == []
    assert sorted(shop.execute("SELECT id, post FROM campaign")) == [
        (first, "fits"),
        (second, None),
        (1000, None),
        (5000, "moves"),
    ]
    assert change.wrong(name="name", post="post") == []


# ---- Verification ----

DAMAGES = {
    "differs": "UPDATE {shadow} SET about = 'wrong' WHERE id = {key}",
    "not in the new table": "DELETE FROM {shadow} WHERE id = {key}",
    "not in the old table": "UPDATE {shadow} SET id = 77777 WHERE id = {key}",
}


@pytest.mark.parametrize("why", DAMAGES)
def test_verification_finds_and_repairs_one_row(shop, change, why):
    shop.fill(30)
    change.prepare().copy()
    key = first_keys(shop)[2]
    shop.execute(DAMAGES[why].format(shadow=change.shadow, key=key))

    found = change.verify()

    assert found == (2 if why == "not in the old table" else 1)
    assert f"verify: {why}" in [reason for _, reason in change.logged()]
    change.settle()
    assert change.verify() == 0
    assert change.wrong(**COLUMNS) == []


TYPES = {
    "bool": (models.BooleanField(default=True), ["1", "0"]),
    "small": (models.SmallIntegerField(null=True), ["-32768", "NULL"]),
    "big": (models.BigIntegerField(default=0), ["-9223372036854775808", "9223372036854775807"]),
    "decimal": (models.DecimalField(max_digits=20, decimal_places=6, default=0), ["-1.5", "0.000001"]),
    "float": (models.FloatField(default=0), ["0.1", "1e300", "-0.0"]),
    "text": (TEXT(max_length=50, default=""), ["''", "'é ''\\\\ % #'", "'-'"]),
    "long": (models.TextField(null=True), ["NULL", "''", "'🐘'"]),
    "date": (models.DateField(null=True), ["'2024-02-29'", "NULL"]),
    "time": (models.TimeField(null=True), ["'23:59:59.999999'"]),
    "stamp": (models.DateTimeField(null=True), ["'2024-02-29 01:02:03.000001'"]),
    "duration": (models.DurationField(null=True), None),
    "uuid": (models.UUIDField(null=True), ["'6ba7b810-9dad-41d1-80b4-00c04fd430c8'"]),
    "binary": (models.BinaryField(null=True), None),
    "json": (models.JSONField(null=True), ["'{\"a\": [1, null]}'"]),
}


def test_verification_finds_no_difference_in_any_type(shop):
    shop.migrate(*(add(name, field) for name, (field, _) in TYPES.items()))
    shop.fill(8)
    for name, (field, values) in TYPES.items():
        kind = field.get_internal_type()
        for key, value in zip(first_keys(shop, 8), values or (), strict=False):
            text = value if kind != "BooleanField" or not shop.is_postgresql else {"1": "true", "0": "false"}[value]
            if kind == "UUIDField" and not shop.connection.features.has_native_uuid_field:
                text = text.replace("-", "")
            shop.execute(f"UPDATE campaign SET {shop.connection.ops.quote_name(name)} = {text} WHERE id = {key}")
    operations = [
        alter("small", models.IntegerField(null=True)),
        alter("big", models.DecimalField(max_digits=30, decimal_places=3, default=0)),
        alter("decimal", models.DecimalField(max_digits=24, decimal_places=8, default=0)),
        alter("text", models.TextField(default="")),
        alter("date", models.DateTimeField(null=True)),
        alter("goal", models.DecimalField(max_digits=20, decimal_places=2, null=True)),
    ]
    change = Change(shop, *operations).prepare()

    change.copy()

    assert change.verify() == 0
    assert change.logged() == []


# ---- Writers beside the copy ----


def copied_beside_writers(shop, change, copy, *, writers=3):
    """Copy in batches while writers write. Return their journals."""
    keys = sorted(shop.objects().values_list("pk", flat=True))
    journals = [Journal(shop, number, writers, seed=keys[0]) for number in range(writers)]
    stop, size = threading.Event(), 20
    starts = range(0, len(keys), size)

    def run():
        try:
            for start in starts:
                copy(keys[start], keys[min(start + size, len(keys)) - 1])
            copy(keys[-1] + 1, 2**31 - 1)
        finally:
            stop.set()

    answers = in_threads([run, *(lambda journal=each: journal.run(stop, keys) for each in journals)])
    assert [each for each in answers if each is not None] == []
    return journals


@pytest.mark.slow
def test_writers_lose_nothing_beside_the_copy(shop, change):
    shop.fill(MANY)
    change.prepare()

    journals = copied_beside_writers(shop, change, change.copy)
    change.settle()

    expected = {key: value for journal in journals for key, value in journal.rows.items() if value is not None}
    assert [journal.errors for journal in journals] == [[]] * len(journals)
    assert dict(shop.execute("SELECT id, description FROM campaign")) == expected
    assert dict(shop.execute(f"SELECT id, about FROM {change.shadow}")) == expected
    assert change.wrong(**COLUMNS) == []
    assert change.verify(-(2**31)) == 0


def copied_without_locks(shop, change, first, last):
    """Copy a range as other tools do at READ COMMITTED: reading the rows, and then writing them."""
    names, rows = change.tables.names, change.rows
    with connections[shop.db_alias].cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {names.shadow} ({rows.names}) SELECT {rows.expressions('o')} FROM {names.origin} o "
            f"WHERE o.id BETWEEN {first} AND {last} "
            + ("ON CONFLICT DO NOTHING" if shop.is_postgresql else "ON DUPLICATE KEY UPDATE id = o.id")
        )


def test_a_copy_without_locks_brings_a_deleted_row_back_and_the_oracle_says_so(shop, change):
    shop.fill(10)
    change.prepare()
    key = first_keys(shop)[1]

    with Writer(shop, f"DELETE FROM campaign WHERE id = {key}"):
        copied_without_locks(shop, change, 0, 2**31 - 1)

    assert change.wrong(**COLUMNS) == [key]
    assert change.verify() == 1
    change.settle()
    assert change.wrong(**COLUMNS) == []
