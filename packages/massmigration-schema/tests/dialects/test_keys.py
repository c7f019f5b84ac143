"""Tables whose key is not an integer of one column."""

import datetime as dt
import uuid
from decimal import Decimal

import django
import pytest
from django.db import connections, migrations, models, transaction

from massmigration.paging.keyset import Keyset, encode_key
from massmigration.states import Status
from massmigration_schema.exceptions import Refused
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.shop import Change
from testsupport.threads import PATIENCE, Gate, in_thread

MYSQL = ("mariadb", "mysql")


def text(collation=None, length=20):
    return models.CharField(max_length=length, primary_key=True, db_collation=collation)


COUNTED = [uuid.UUID(int=number * 2**120 + number) for number in range(1, 12)]
WORDS = ["Z", "a", "Ab", "ac", "b ", " b", "ß", "é", "9", "%s'\\", ""]
KINDS = {
    "uuid": (DATABASE_SERVERS, {"id": models.UUIDField(primary_key=True)}, COUNTED),
    "text": (DATABASE_SERVERS, {"id": text()}, WORDS),
    "text, cases differ": (MYSQL, {"id": text("utf8mb4_bin")}, [*WORDS[:-2], "A", "ab"]),
    "text, cases are the same": (MYSQL, {"id": text("utf8mb4_general_ci")}, WORDS),
    "text, spaces count": (("mysql",), {"id": text("utf8mb4_0900_ai_ci")}, [*WORDS[:-2], "a ", "b"]),
    "text, compared by bytes": (("postgresql",), {"id": text("C")}, [*WORDS[:-2], "A", "ab"]),
    "unsigned": (
        MYSQL,
        {"id": models.PositiveBigIntegerField(primary_key=True)},
        [0, 1, *range(2**64 - 9, 2**64)],
    ),
    "decimal": (
        DATABASE_SERVERS,
        {"id": models.DecimalField(max_digits=12, decimal_places=3, primary_key=True)},
        [Decimal(number) / 8 for number in range(-5, 6)],
    ),
    "date": (
        DATABASE_SERVERS,
        {"id": models.DateField(primary_key=True)},
        [dt.date(2020, 1, number) for number in range(1, 12)],
    ),
    "binary": (("postgresql",), {"id": models.BinaryField(primary_key=True)}, [bytes([n, 0, 37]) for n in range(11)]),
}
if django.VERSION >= (5, 2):
    PARTS = {
        "shop": models.IntegerField(),
        "code": models.CharField(max_length=20),
        "pk": models.CompositePrimaryKey("shop", "code"),
    }
    TOKENS = {**PARTS, "token": models.UUIDField(), "pk": models.CompositePrimaryKey("token", "shop")}
    KINDS["composite"] = (DATABASE_SERVERS, PARTS, [(n // 4, WORDS[n % 4]) for n in range(11)])
    KINDS["composite of a uuid"] = (
        DATABASE_SERVERS,
        {**TOKENS, "code": models.CharField(max_length=20, null=True)},
        [(COUNTED[n // 3], n) for n in range(11)],
    )
CASES = [(alias, kind) for kind, (aliases, *_) in KINDS.items() for alias in aliases]
OPERATIONS = [
    migrations.RenameField("thing", "text", "about"),
    migrations.AddField("thing", "likes", models.IntegerField(default=7)),
    migrations.AlterField("thing", "size", models.DecimalField(max_digits=14, decimal_places=3, null=True)),
]


class Things:
    """A table with a key of one kind, with eight rows. Three more keys are free."""

    def __init__(self, shop, kind):
        self.shop = shop
        _, fields, keys = KINDS[kind]
        self.keys = [key if isinstance(key, tuple) else (key,) for key in keys]
        others = [
            ("text", models.CharField(max_length=40)),
            ("size", models.DecimalField(max_digits=12, decimal_places=2, null=True)),
        ]
        shop.migrate(migrations.CreateModel("Thing", [*fields.items(), *others]))
        model = shop.model("Thing")
        self.fields = list(getattr(model._meta, "pk_fields", None) or [model._meta.pk])
        self.columns = [field.column for field in self.fields]
        for number, key in enumerate(self.keys[:8]):
            self.insert(key, text=f"text {number}")

    def prepared(self, key):
        connection = self.shop.connection
        return [field.get_db_prep_value(value, connection) for field, value in zip(self.fields, key, strict=True)]

    def insert(self, key, **values):
        names = [*self.columns, *values]
        marks = ", ".join(["%s"] * len(names))
        self.shop.execute(
            f"INSERT INTO shop_thing ({', '.join(names)}) VALUES ({marks})", [*self.prepared(key), *values.values()]
        )

    @property
    def match(self):
        return " AND ".join(f"{column} = %s" for column in self.columns)

    def update(self, key, column, value):
        self.shop.execute(f"UPDATE shop_thing SET {column} = %s WHERE {self.match}", [value, *self.prepared(key)])

    def move(self, key, target):
        changes = ", ".join(f"{column} = %s" for column in self.columns)
        self.shop.execute(
            f"UPDATE shop_thing SET {changes} WHERE {self.match}", [*self.prepared(target), *self.prepared(key)]
        )

    def delete(self, key):
        self.shop.execute(f"DELETE FROM shop_thing WHERE {self.match}", self.prepared(key))

    def rows(self, table="shop_thing", column="text"):
        """Return the rows, in the order of no collation."""
        found = self.shop.execute(f"SELECT {', '.join(self.columns)}, {column} FROM {table}")
        return sorted(tuple(bytes(each) if isinstance(each, memoryview) else each for each in row) for row in found)

    def write(self, column="text"):
        """Insert, update, move and delete rows."""
        self.insert(self.keys[8], **{column: "inserted"})
        self.update(self.keys[1], column, "updated")
        self.move(self.keys[2], self.keys[9])
        self.move(self.keys[3], self.keys[2])
        self.delete(self.keys[4])


@pytest.fixture
def things(shop, kind):
    return Things(shop, kind)


@pytest.fixture
def change(shop, things):
    return ThingChange(shop, *OPERATIONS).prepare()


class ThingChange(Change):
    def batch(self, first=None, last=None):
        """Return the objects of a range of keys as the engine does."""
        rows = self.shop.objects("Thing")
        keyset = Keyset.of(rows.model)
        encoded = [None if each is None else encode_key(each) for each in (first, last)]
        return keyset.page(rows.all(), *encoded)

    def copy(self, first=None, last=None):
        super().copy(first, last)

    def verify(self, first=None, last=None):
        return super().verify(first, last)

    def middle(self):
        rows = self.shop.objects("Thing")
        keyset = Keyset.of(rows.model)
        return list(keyset.rows(keyset.page(rows.all(), None, None)))[4]


by_kind = pytest.mark.parametrize(("server_alias", "kind"), CASES, indirect=["server_alias"])


@by_kind
def test_every_write_arrives_under_every_key(things, change):
    middle = change.middle()

    change.copy(None, middle)
    things.write()
    change.copy(middle, None)

    assert things.rows(change.shadow, "about") == things.rows()
    assert (change.verify(), change.logged()) == (0, [])


@by_kind
def test_a_locked_row_is_logged_by_its_key_and_settled(shop, things, change):
    key, gate = things.prepared(things.keys[6]), Gate()

    def hold():
        with transaction.atomic(shop.db_alias):
            things.update(things.keys[6], "text", "held")
            gate.wait()
        connections[shop.db_alias].close()

    holding = in_thread(hold)
    gate.await_arrivals()
    change.copy()
    gate.open()
    holding.result(PATIENCE)

    ((*logged, why),) = change.logged()
    assert (list(map(str, map(plain, logged))), why) == (list(map(str, map(plain, key))), "locked by a writer")
    change.settle()
    assert change.logged() == []
    assert things.rows(change.shadow, "about") == things.rows()


def plain(value):
    return bytes(value) if isinstance(value, memoryview) else getattr(value, "obj", value)


@by_kind
def test_verification_finds_and_repairs_rows_under_every_key(shop, things, change):
    change.copy()
    match = things.match
    shop.execute(f"UPDATE {change.shadow} SET about = 'wrong' WHERE {match}", things.prepared(things.keys[0]))
    shop.execute(f"DELETE FROM {change.shadow} WHERE {match}", things.prepared(things.keys[1]))
    moved = ", ".join(f"{column} = %s" for column in things.columns)
    shop.execute(
        f"UPDATE {change.shadow} SET {moved} WHERE {match}",
        [*things.prepared(things.keys[8]), *things.prepared(things.keys[2])],
    )
    middle = change.middle()

    assert change.verify(None, middle) + change.verify(middle, None) == 4

    change.settle()
    assert (change.verify(), things.rows(change.shadow, "about")) == (0, things.rows())


@by_kind
def test_a_change_is_made_and_reverted_under_every_key(shop, things, start):
    change, waiting = start(*OPERATIONS, reverse_sync=True)
    assert waiting.status is Status.WAITING
    things.write()
    assert change.verify(shop.db_alias) == 0

    change._cut_over(shop.db_alias, start.context(change))
    before = things.rows(column="about")
    things.move(things.keys[9], things.keys[3])
    things.move(things.keys[8], things.keys[10])
    things.insert(things.keys[4], about="again", likes=1)
    things.update(things.keys[0], "about", "later")
    things.delete(things.keys[5])
    expected = things.rows(column="about")
    assert before != expected
    change.revert(shop.db_alias, "code:test")

    assert things.rows() == expected


@pytest.mark.parametrize("server_alias", MYSQL, indirect=True)
@pytest.mark.parametrize("kind", ["text, cases are the same"])
def test_a_key_that_is_written_in_another_way_is_the_same_key(shop, things, change):
    change.copy()

    things.move(("a",), ("A",))
    things.move(("b ",), ("B",))

    assert things.rows(change.shadow, "about") == things.rows()
    assert {("A",), ("B",)} <= {row[:1] for row in things.rows(change.shadow, "about")}
    shop.execute(f"UPDATE {change.shadow} SET id = 'a' WHERE id = 'A'")
    assert change.verify() == 1
    change.settle()
    assert things.rows(change.shadow, "about") == things.rows()


def alter(field):
    return migrations.AlterField("thing", "id", field)


TYPES = {
    "a longer text": ("text", text(length=40), text(length=30)),
    "a longer text without cases": ("text, cases are the same", text("utf8mb4_general_ci", 40), None),
    "a larger integer": ("unsigned", models.PositiveBigIntegerField(primary_key=True), None),
    "more digits": ("decimal", models.DecimalField(max_digits=16, decimal_places=5, primary_key=True), None),
}


@pytest.mark.parametrize(
    ("server_alias", "kind", "field"),
    [(alias, kind, field) for kind, field, _ in TYPES.values() for alias in KINDS[kind][0]],
    indirect=["server_alias"],
)
def test_the_type_of_a_key_changes_if_the_order_of_keys_does_not(shop, things, start, field):
    change, _ = start(*OPERATIONS[:2], alter(field), reverse_sync=True)
    things.write()

    change._cut_over(shop.db_alias, start.context(change))
    things.update(things.keys[0], "about", "later")
    expected = things.rows(column="about")
    change.revert(shop.db_alias, "code:test")

    assert things.rows() == expected


ALLOWED = "allowed: another type of integer, a longer text, and more digits."
REFUSED = {
    "a text to a uuid": ("text", models.UUIDField(primary_key=True), ALLOWED),
    "a uuid to a text": ("uuid", text(length=36), ALLOWED),
    "a shorter text": ("text", text(length=10), ALLOWED),
    "another collation": ("text", {"postgresql": text("C"), "mariadb": text("utf8mb4_bin")}, ALLOWED),
    "fewer digits": ("decimal", models.DecimalField(max_digits=10, decimal_places=2, primary_key=True), ALLOWED),
    "a date to a time": ("date", models.DateTimeField(primary_key=True), ALLOWED),
}


@pytest.mark.parametrize("server_alias", DATABASE_SERVERS, indirect=True)
@pytest.mark.parametrize(("kind", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_a_type_that_may_order_keys_in_another_way_is_refused(shop, things, field, words):
    if isinstance(field, dict):
        field = field.get(shop.db_alias, field["mariadb"])

    (refusal,) = shop.derive(alter(field)).refusals

    assert refusal.code == "online.key"
    assert words in str(refusal)


@pytest.mark.parametrize("kind", ["text"])
def test_a_collation_that_the_operations_would_change_is_refused(shop, things):
    if shop.is_postgresql:
        shop.execute('ALTER TABLE shop_thing ALTER COLUMN id TYPE varchar(20) COLLATE "C"')
    else:
        shop.execute("ALTER TABLE shop_thing MODIFY id varchar(20) COLLATE utf8mb4_bin NOT NULL")

    with pytest.raises(Refused, match=r"The collation of the primary key id would become .*: other keys would be"):
        Change(shop, alter(text(length=40))).prepare()


def test_a_floating_point_key_is_refused(shop):
    shop.declare(migrations.CreateModel("Thing", [("id", models.FloatField(primary_key=True))]))

    (refusal,) = shop.derive(migrations.AddField("thing", "likes", models.IntegerField(null=True))).refusals

    assert (refusal.code, str(refusal)) == (
        "online.key",
        "The primary key id is FloatField; a row must be found by its key. Use another type.",
    )
