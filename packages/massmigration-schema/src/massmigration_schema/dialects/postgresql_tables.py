"""`PostgreSQLTables`: statements that create and drop the tables and triggers of a change on PostgreSQL."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import transaction

from massmigration_schema.costs import steps
from massmigration_schema.definition import TableDefinition
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Rows, TableBuilder, same, verbatim
from massmigration_schema.dialects.postgresql_catalog import PostgreSQLCatalog
from massmigration_schema.dialects.postgresql_lock import PostgreSQLLock
from massmigration_schema.dialects.postgresql_names import PostgreSQLNames
from massmigration_schema.dialects.postgresql_rows import PostgreSQLRows
from massmigration_schema.exceptions import Refused
from massmigration_schema.locks import LockLimits

TOUCHED = """
    SELECT DISTINCT c.oid::regclass::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND n.nspname NOT IN (%s, 'pg_catalog', 'pg_toast') AND c.relkind IN ('r', 'p')
        AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        AND c.oid NOT IN (SELECT confrelid FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f')
"""
"""Other tables that this transaction has locked against writers."""

SEQUENCES = """
    SELECT a.attname, pg_get_serial_sequence(%s, a.attname) FROM pg_attribute a WHERE a.attrelid = %s::regclass
        AND a.attnum > 0 AND NOT a.attisdropped AND pg_get_serial_sequence(%s, a.attname) IS NOT NULL
"""
SEQUENCE = """
    SELECT format_type(seqtypid, NULL), concat('INCREMENT ', seqincrement, ' MINVALUE ', seqmin, ' MAXVALUE ', seqmax,
        ' START ', seqstart, ' CACHE ', seqcache, CASE WHEN seqcycle THEN ' CYCLE' END)
    FROM pg_sequence WHERE seqrelid = %s::regclass
"""
GRANTS = """
    SELECT x.privilege_type, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
        x.is_grantable
    FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = %s::regclass AND x.grantee <> c.relowner
"""
OPTIONS = """
    SELECT quote_ident(option_name), quote_literal(option_value) FROM pg_class c, pg_options_to_table(c.reloptions)
    WHERE c.oid = %s::regclass
"""
STATISTICS = """
    SELECT quote_ident(attname), attstattarget FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0
        AND NOT attisdropped AND attstattarget >= 0
"""
COLUMN_TYPES = """
    SELECT attname, format_type(atttypid, atttypmod) || coalesce(' COLLATE ' || c.oid::regcollation, '')
    FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
FOREIGN_KEYS = """
    SELECT a.attname, k.conname, c.relname, b.attname FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
    WHERE k.conrelid = %s::regclass AND k.contype = 'f'
"""
TRIGGERS = """
    SELECT t.tgname, pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text || ' ' || md5(p.prosrc) FROM pg_trigger t
    JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = to_regclass(%s) AND t.tgname LIKE %s ORDER BY 1
"""
OF_NEW_TABLE = ("online.partitioned", "online.temporary", "online.inheritance")
"""The refusals of a table that the clauses of its change can bring about."""

ERRORS = "integrity_constraint_violation OR data_exception OR program_limit_exceeded"
"""What a row that does not fit raises. A value that is too long for an index exceeds a limit of the program."""


class PostgreSQLTables(TableBuilder):
    """The tables and triggers of one change on PostgreSQL."""

    def __init__(self, db_alias: str, derivation: Derivation, limits: LockLimits) -> None:
        super().__init__(db_alias, derivation, limits)
        self.lock = PostgreSQLLock(db_alias)
        self.names = PostgreSQLNames(db_alias, self.plan)
        self.catalog = PostgreSQLCatalog(db_alias)

    @property
    def log_table(self) -> str:
        # Django leaves a name as it is that begins and ends with a quotation mark.
        return f'"{self.names.own_schema}"."{self.names.log_name}"'

    def build(self) -> None:
        """Make the tables in one transaction, which locks no other table against its writers.

        Except those to which the table's own foreign keys refer: for a moment, because the new table is empty.
        """
        if self.made():
            self.drop()

        def make() -> None:
            self._create_new()
            names = self.names
            self.require_same_collations(self._column_types(names.origin), self._column_types(names.shadow))
            self._add_foreign_keys()
            self._refuse_other_tables()
            self._create_log()

        self.patient(make)

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        names, before = self.names, self.names.shadow_schema
        try:
            with transaction.atomic(using=self.db_alias):
                names.use_shadow_schema(f"mm_check_{secrets.token_hex(4)}")
                self._create_new()
                self._refuse_other_tables()
                yield
                transaction.set_rollback(True, using=self.db_alias)
        finally:
            names.use_shadow_schema(before)

    def read_new(self) -> TableDefinition:
        oid = self.value("SELECT to_regclass(%s)::oid::bigint", [self.names.shadow.replace("%%", "%")])
        if oid is None:
            raise Refused("online.clause", "The table is gone after the clauses. It must keep its name and schema.")
        refused = [each for each in self.catalog.refusals_of_kind(oid, self.plan.table) if each.code in OF_NEW_TABLE]
        if refused:
            raise refused[0]
        return self.catalog.read_oid(int(oid))

    def _create_new(self) -> None:
        names, definition = self.names, self.plan.definition
        self.execute(f"CREATE SCHEMA {names.shadow_schema}")
        if definition:
            self.execute(verbatim(definition % {"table": names.shadow.replace("%%", "%")}))
        else:
            self.execute(
                f"CREATE TABLE {names.shadow} "
                f"(LIKE {names.origin} INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS)"
            )
            self._keep_sequence_types()
            self._add_constraints_and_indexes()
        self._keep_properties()
        self._run_operations()

    def sequences(self, table: str) -> list[tuple[str, str]]:
        """Return the columns of a table that have a sequence, and the sequences."""
        name = table.replace("%%", "%")
        return [(column, sequence) for column, sequence in self.rows(SEQUENCES, [name, name, name])]

    def _keep_sequence_types(self) -> None:
        """Give new sequences the type of the old ones. `LIKE` makes bigint ones with the old maximum as their own."""
        new = dict(self.sequences(self.names.shadow))
        for column, old in self.sequences(self.names.origin):
            kind, options = self.rows(SEQUENCE, [old])[0]
            if column in new:
                self.execute(f"ALTER SEQUENCE {verbatim(new[column])} AS {kind}")
                name = old.rpartition(".")[2]  # the server has chosen the first one that is free in the schema
                if new[column].rpartition(".")[2] != name:
                    self.execute(f"ALTER SEQUENCE {verbatim(new[column])} RENAME TO {verbatim(name)}")
                continue
            # A serial column of an old Django: its default would be the old table's sequence.
            name = f"{self.names.shadow_schema}.{old.rpartition('.')[2]}"
            quoted = self.quote(column)
            self.execute(f"CREATE SEQUENCE {verbatim(name)} AS {kind} {options}")
            self.execute(
                f"ALTER TABLE {self.names.shadow} ALTER COLUMN {quoted} SET DEFAULT nextval({_literal(name)}::regclass)"
            )
            self.execute(f"ALTER SEQUENCE {verbatim(name)} OWNED BY {self.names.shadow}.{quoted}")

    def _add_constraints_and_indexes(self) -> None:
        found = self.catalog.read(self.plan.table)
        assert found is not None
        shadow, quote = self.names.shadow, self.quote
        listed = sorted(found.constraints.items(), key=lambda each: not each[1].startswith("PRIMARY KEY"))
        for name, text in listed:
            self.execute(f"ALTER TABLE {shadow} ADD CONSTRAINT {quote(name)} {verbatim(text)}")
        for name, text in found.indexes.items():
            if text.endswith(" INVALID"):
                continue
            kind = "UNIQUE " if text.startswith("UNIQUE ") else ""
            rest = verbatim(text.removeprefix("UNIQUE "))
            self.execute(f"CREATE {kind}INDEX {quote(name)} ON {shadow} USING {rest}")

    def _keep_properties(self) -> None:
        """Carry over what `LIKE` leaves out: owner, privileges, comment, storage parameters, statistics targets."""
        origin = self.names.origin.replace("%%", "%")
        self._keep_grants(origin, self.names.shadow)
        new = dict(self.sequences(self.names.shadow))
        for column, old in self.sequences(self.names.origin):
            if column in new:
                self._keep_grants(old, f"SEQUENCE {verbatim(new[column])}")
        for name, value in self.rows(OPTIONS, [origin]):
            self.execute(f"ALTER TABLE {self.names.shadow} SET ({verbatim(name)} = {verbatim(value)})")
        for column, target in () if self.plan.definition else self.rows(STATISTICS, [origin]):
            self.execute(f"ALTER TABLE {self.names.shadow} ALTER COLUMN {verbatim(column)} SET STATISTICS {target}")
        comment, tablespace, owner, me = self.rows(
            "SELECT quote_literal(obj_description(c.oid, 'pg_class')), quote_ident(s.spcname), "
            "quote_ident(pg_get_userbyid(c.relowner)), quote_ident(current_user) "
            "FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = %s::regclass",
            [origin],
        )[0]
        if comment is not None:
            self.execute(f"COMMENT ON TABLE {self.names.shadow} IS {verbatim(comment)}")
        if tablespace is not None:
            self.execute(f"ALTER TABLE {self.names.shadow} SET TABLESPACE {verbatim(tablespace)}")
        if owner != me:
            # A table's owner must be able to create tables in its schema.
            self.execute(f"GRANT CREATE, USAGE ON SCHEMA {self.names.shadow_schema} TO {verbatim(owner)}")
            self.execute(f"ALTER TABLE {self.names.shadow} OWNER TO {verbatim(owner)}")

    def _keep_grants(self, source: str, target: str) -> None:
        for _, grantee, _ in self.rows(GRANTS, [target.removeprefix("SEQUENCE ").replace("%%", "%")]):
            self.execute(f"REVOKE ALL ON {target} FROM {verbatim(grantee)}")  # a default privilege of new tables
        for kind, grantee, is_grantable in self.rows(GRANTS, [source]):
            option = " WITH GRANT OPTION" if is_grantable else ""
            self.execute(f"GRANT {kind} ON {target} TO {verbatim(grantee)}{option}")

    def _run_operations(self) -> None:
        """Have Django's schema editor alter the new table, which it finds first under the table's name."""
        derivation, names = self.derivation, self.names
        before = self.value("SELECT current_setting('search_path')")
        self.rows("SELECT set_config('search_path', %s, true)", [f"{names.shadow_schema}, {before}"])
        with self.connection.schema_editor(atomic=False) as editor:
            for step in steps(derivation):
                step.operation.database_forwards(derivation.app_label, editor, step.before, step.after)
        self.rows("SELECT set_config('search_path', %s, true)", [before])

    def old_foreign_keys(self) -> Rows:
        return self.foreign_keys_of(self.names.origin)

    def foreign_keys_of(self, table: str) -> Rows:
        """Return column, name, referenced table and referenced column of a table's foreign keys."""
        return self.rows(FOREIGN_KEYS, [table.replace("%%", "%")])

    def _add_foreign_keys(self) -> None:
        """Make those foreign keys that the operations have not made.

        They are made at the end, because Django would make some of them again, and to drop one locks the other table
        against its readers.
        """
        made = {column for column, *_ in self.foreign_keys_of(self.names.shadow)}
        for key in self.foreign_keys():
            if key.column not in made:
                self.execute(
                    f"ALTER TABLE {self.names.shadow} ADD CONSTRAINT {self.quote(key.name)} "
                    f"FOREIGN KEY ({self.quote(key.column)}) REFERENCES {self.quote(key.table)} "
                    f"({self.quote(key.target)}) DEFERRABLE INITIALLY DEFERRED"
                )

    def _refuse_other_tables(self) -> None:
        names = self.names
        shadow = names.shadow.replace("%%", "%")
        touched = [name for (name,) in self.rows(TOUCHED, [names.shadow_schema, shadow])]
        if touched:
            raise Refused(
                "online.other_table",
                f"The operations would change or lock {', '.join(touched)}. An online change can change one table. "
                "Move the operation to another migration.",
            )

    def _create_log(self) -> None:
        types = self._column_types(self.names.origin)
        key = ", ".join(
            f"{name} {verbatim(types[column])} NOT NULL"
            for name, column in zip(self.plan.log_key, self.plan.old_key, strict=True)
        )
        self.execute(
            f"CREATE TABLE {self.names.log} (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, {key}, "
            "why text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        )

    def _column_types(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns, with their collations, by which keys are the same."""
        return dict(self.rows(COLUMN_TYPES, [table.replace("%%", "%")]))

    def create_triggers(self) -> None:
        """Make the function and the triggers in one transaction. It needs the lock of the whole table."""
        self.patient(self._create_triggers)

    def create_back(self) -> None:
        """Make the log and the triggers of the way back, in the transaction of the swap."""
        self._create_log()
        self._create_triggers()

    def _create_triggers(self) -> None:
        names = self.names
        self.execute(
            f"CREATE OR REPLACE FUNCTION {names.function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            f"SET search_path = pg_catalog, {names.schema}, pg_temp AS $massmigration${self._body()}$massmigration$"
        )
        self.drop_triggers()
        events = (("rows", "INSERT OR UPDATE OR DELETE", "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
        for name, event, each in events:
            self.execute(
                f"CREATE TRIGGER {names.trigger}_{name} AFTER {event} ON {names.origin} FOR EACH {each} "
                f"EXECUTE FUNCTION {names.function}()"
            )
            # Also in a session that applies changes of a replica.
            self.execute(f"ALTER TABLE {names.origin} ENABLE ALWAYS TRIGGER {names.trigger}_{name}")

    def _body(self) -> str:
        """Return the body of the trigger function."""
        names, rows = self.names, PostgreSQLRows(self.db_alias, self.plan)
        shadow, before, after, new = names.shadow, rows.old_key("OLD"), rows.old_key("NEW"), rows.new_key()
        taken = ", ".join(f"{name} = EXCLUDED.{name}" for name in (self.quote(each.name) for each in self.plan.updated))
        insert = (
            f"INSERT INTO {shadow} ({rows.names}) VALUES ({rows.expressions('NEW')}) "
            f"ON CONFLICT ({', '.join(new)}) DO UPDATE SET {taken};"
        )
        update = f"UPDATE {shadow} SET {rows.assignments('NEW')} WHERE {same(new, before)};"
        delete = f"DELETE FROM {shadow} WHERE {same(new, before)};"
        write = (
            f"IF TG_OP = 'INSERT' THEN {insert}\nELSIF {same(before, after)} THEN {update}\n"
            f"ELSE {delete} {insert}\nEND IF;"
        )
        if self.plan.is_reverse:  # the row has more columns, so it is moved
            write = f"IF TG_OP = 'UPDATE' THEN {update} END IF;\nIF TG_OP = 'INSERT' OR NOT FOUND THEN {insert} END IF;"
        if self.plan.is_lossy:
            # The block costs a subtransaction for each row. It has undone the DELETE when it gets to the exception.
            write = (
                f"BEGIN {write}\nEXCEPTION WHEN {ERRORS} THEN\n"
                f"IF TG_OP = 'UPDATE' AND NOT ({same(before, after)}) THEN {delete} END IF;\n"
                f"INSERT INTO {names.log} ({rows.log_columns}) VALUES ({', '.join(after)}, SQLERRM);\nEND;"
            )
        return (
            f"BEGIN\nIF TG_OP = 'TRUNCATE' THEN TRUNCATE {shadow}, {names.log}; RETURN NULL; END IF;\n"
            f"IF TG_OP = 'DELETE' THEN {delete} RETURN NULL; END IF;\n"
            f"{write}\nRETURN NULL;\nEND"
        )

    def drop_triggers(self) -> None:
        """Drop the triggers. It needs the lock of the whole table."""
        for name in ("rows", "truncate"):
            self.execute(f"DROP TRIGGER IF EXISTS {self.names.trigger}_{name} ON {self.names.origin}")

    def made(self) -> list[str]:
        schemas = [self.names.shadow_schema, self.names.old_schema]
        tables: Sequence[Any] = self.rows(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN (%s, %s) AND c.relkind = 'r' ORDER BY 1",
            schemas,
        )
        return [*(name for (name,) in tables), *self.trigger_texts()]

    def trigger_texts(self) -> dict[str, str]:
        pattern = self.names.trigger.replace("_", "\\_") + "\\_%"
        return dict(self.rows(TRIGGERS, [self.names.origin.replace("%%", "%"), pattern]))

    def drop(self) -> None:
        def drop() -> None:
            self.drop_triggers()
            self.execute(f"DROP SCHEMA IF EXISTS {self.names.shadow_schema} CASCADE")

        self.patient(drop)


def _literal(text: str) -> str:
    return "'" + verbatim(text).replace("'", "''") + "'"
