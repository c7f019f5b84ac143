"""Every refusal by its code: what it says, and that nothing is left or changed."""

import dataclasses
import datetime as dt

import pytest
from django.db import migrations, models, transaction
from django.utils import timezone

from massmigration import api
from massmigration.exceptions import MassMigrationError
from massmigration_schema import ledger
from massmigration_schema.dialects import mysql_catalog
from massmigration_schema.exceptions import RefusedForReasons
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.shop import Change, Reader, check

MYSQL = ("mariadb", "mysql")
LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
UNIQUE = migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))
BIG_KEY = migrations.AlterField("campaign", "id", models.BigAutoField(primary_key=True))
FOREIGN = models.ForeignKey("shop.Account", models.PROTECT, default=1, related_name="+")
POSITIVE = migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0)))


def add(name, field):
    return migrations.AddField("campaign", name, field)


class Statement:
    """A statement that is executed before."""

    def __init__(self, sql):
        self.sql = sql

    def __call__(self, shop, monkeypatch):
        shop.execute(self.sql)


def has_other_change(shop, monkeypatch):
    plan = dataclasses.replace(shop.derive(LIKES).required_plan(), key="shop:0001_other.schema")
    ledger.begin(shop.db_alias, plan, server_id="", definition={})


def has_name(shop, monkeypatch):
    Change(shop, LIKES).tables.build()


def has_no_space(shop, monkeypatch):
    monkeypatch.setattr(type(shop.catalog), "free_bytes", lambda self: 1)


def logs_statements(shop, monkeypatch):
    settings = mysql_catalog.SETTINGS
    other = "SELECT 'log_bin', 'ON' UNION SELECT 'binlog_format', 'STATEMENT' UNION SELECT"
    monkeypatch.setattr(
        mysql_catalog,
        "SETTINGS",
        f"{other} 'log_bin_trust_function_creators', 'ON' UNION SELECT 'sql_mode', 'STRICT_ALL_TABLES'",
    )
    assert settings != mysql_catalog.SETTINGS


def has_check(shop, monkeypatch):
    shop.migrate(POSITIVE)


def nothing(shop, monkeypatch):
    """Do nothing before."""


OF_A_START = {
    "online.operation": ([migrations.RunPython(migrations.RunPython.noop)], nothing, "RunPython cannot be made online"),
    "online.models": (
        [LIKES, migrations.AddField("note", "likes", models.IntegerField(null=True))],
        nothing,
        "Found changes of 2 models (campaign, note); allowed: 1",
    ),
    "online.many_to_many": ([add("payers", models.ManyToManyField("shop.Account"))], nothing, "is many-to-many"),
    "online.default": ([add("likes", models.IntegerField())], nothing, "likes is NOT NULL and has no default"),
    "online.key": (
        [migrations.AlterField("campaign", "id", models.CharField(max_length=9, primary_key=True))],
        nothing,
        "The primary key id becomes varchar(9), and is integer",
    ),
    "online.self_reference": (
        [add("parent", models.ForeignKey("shop.Campaign", models.CASCADE, null=True))],
        nothing,
        "parent refers to the table itself",
    ),
    "online.new_foreign_key": ([add("payer", FOREIGN)], nothing, "AddField adds a foreign key to payer, which has"),
    "online.revert": ([migrations.RemoveField("campaign", "budget")], nothing, "budget is removed, and is NOT NULL"),
    "online.key_children": ([BIG_KEY], nothing, "The type of the primary key changes, and shop_note."),
    "online.table": ([LIKES], Statement("DROP TABLE shop_note, campaign"), "There is no table 'campaign'."),
    "online.drift": (
        [LIKES],
        Statement("ALTER TABLE campaign DROP COLUMN description"),
        "Table 'campaign' is not what the applied migrations have made",
    ),
    "online.busy_table": ([LIKES], has_other_change, "is being changed by 'shop:0001_other.schema' already."),
    "online.name_taken": ([LIKES], has_name, "exists already, and belongs to no change."),
    "online.disk": ([LIKES], has_no_space, "required: twice the table."),
    "online.binlog": ([LIKES], logs_statements, "binlog_format is STATEMENT; allowed: ROW, MIXED."),
    "online.check": ([LIKES], has_check, "MySQL allows a name once in a database"),
}
ONLY = {"online.key_children": MYSQL, "online.binlog": MYSQL, "online.check": ("mysql",)}


@pytest.mark.parametrize(
    ("server_alias", "code"),
    [(alias, code) for code in OF_A_START for alias in ONLY.get(code, DATABASE_SERVERS)],
    indirect=["server_alias"],
)
def test_a_refused_start_leaves_nothing(shop, start, code, monkeypatch):
    operations, happen, words = OF_A_START[code]
    happen(shop, monkeypatch)
    before = shop.everything()

    with pytest.raises(RefusedForReasons) as raised:
        start(*operations, reverse_sync=code == "online.revert")

    assert [words in str(each) for each in raised.value.reasons if each.code == code] == [True]
    assert shop.everything() == before
    for other in ledger.OnlineChange.objects.using(shop.db_alias).all():
        ledger.forget(shop.db_alias, other.key)


def test_a_start_within_a_transaction_leaves_nothing(shop, start):
    before = shop.everything()

    with pytest.raises(MassMigrationError) as raised, transaction.atomic(shop.db_alias):
        start(LIKES)

    assert raised.value.code == "online.transaction"
    assert shop.everything() == before


# ---- After the start ----


class Waiting:
    """A change that waits for the cutover, and what can be done with it."""

    def __init__(self, shop, start, *operations):
        self.shop, self.start = shop, start
        self.change, _ = start(*operations)

    def proceed(self):
        api.proceed(self.change.key, self.shop.db_alias)

    def cut_over(self):
        self.change._cut_over(self.shop.db_alias, self.start.context(self.change))

    def impatient_cutover(self):
        self.change.online = dataclasses.replace(self.change.online, lock_patience=dt.timedelta(milliseconds=1))
        with Reader(self.shop.db_alias):
            self.cut_over()

    def make_ready(self):
        self.change._make_ready(self.shop.db_alias, self.start.context(self.change))

    def clean_up(self):
        self.change.clean_up(self.shop.db_alias, "code:test")

    def abort(self):
        self.change.abort(self.shop.db_alias, "code:test")

    def revert(self):
        self.change.revert(self.shop.db_alias, "code:test")

    def verify(self):
        self.change.verify(self.shop.db_alias)

    def update(self, **fields):
        ledger._update(self.shop.db_alias, self.change.key, **fields)

    def drop_trigger(self):
        (name, *_) = self.change.swap(self.shop.db_alias).tables.trigger_texts()
        self.shop.execute(f"DROP TRIGGER {name} ON campaign" if self.shop.is_postgresql else f"DROP TRIGGER `{name}`")

    def conflict(self):
        self.shop.execute("UPDATE campaign SET post = 'same'")

    def refer_to_post(self):
        self.shop.execute("CREATE TABLE shop_other (post varchar(128), FOREIGN KEY (post) REFERENCES campaign (post))")


OF_A_CHANGE = {
    "online.server": (lambda w: w.update(server_id="another"), Waiting.proceed, "began on the server another"),
    "online.triggers": (Waiting.drop_trigger, Waiting.proceed, "are gone or were altered"),
    "online.not_verified": (
        lambda w: w.update(verified_at=timezone.now() - dt.timedelta(days=2)),
        Waiting.proceed,
        "allowed: within 1 day",
    ),
    "online.drift": (
        lambda w: w.shop.execute("CREATE INDEX late ON campaign (budget)"),
        Waiting.proceed,
        "was altered since the change began: extra_index: late",
    ),
    "online.differences": (
        lambda w: w.update(differences=101),
        Waiting.make_ready,
        "101 rows that differ; allowed: 100",
    ),
    "online.conflicts": (Waiting.conflict, Waiting.cut_over, "rows do not fit the new table"),
    "online.lock": (lambda w: None, Waiting.impatient_cutover, "its lock was not granted in"),
    "online.children": (Waiting.refer_to_post, Waiting.cut_over, "Drop this foreign key first."),
    "online.not_swapped": (lambda w: None, Waiting.clean_up, "has not swapped the tables. To give it up, abort it."),
    "online.revert": (lambda w: None, Waiting.revert, "cannot be reverted: it has no Online(reverse_sync=True)."),
    "online.not_started": (
        lambda w: ledger.forget(w.shop.db_alias, w.change.key),
        Waiting.verify,
        "has not begun on database",
    ),
    "online.swapped": (Waiting.cut_over, Waiting.abort, "has swapped the tables already. Clean it up instead."),
    "online.not_ready": (Waiting.cut_over, Waiting.verify, "has no new table any more."),
}


@pytest.mark.parametrize("code", OF_A_CHANGE)
def test_a_refusal_after_the_start_changes_nothing(shop, start, code):
    happen, verb, words = OF_A_CHANGE[code]
    operations = [UNIQUE]
    if code == "online.children":
        shop.migrate(UNIQUE)
        operations = [migrations.RemoveField("campaign", "post")]
    shop.fill(3)
    waiting = Waiting(shop, start, *operations)
    happen(waiting)
    before = shop.everything(), shop.definition(), shop.definition("shop_note")

    with pytest.raises(MassMigrationError) as raised:
        verb(waiting)

    assert (raised.value.code, words in str(raised.value)) == (code, True)
    assert (shop.everything(), shop.definition(), shop.definition("shop_note")) == before
