"""The derivation of a plan from clauses of SQL, by a trial on an empty copy of the table."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import DatabaseError, connections, models
from django.db.migrations.state import ModelState, ProjectState

from massmigration_schema import ledger
from massmigration_schema.clauses import AnyChange, Statement, template
from massmigration_schema.definition import ColumnDefinition, TableDefinition
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.registry import SchemaDialect
from massmigration_schema.exceptions import Refused
from massmigration_schema.locks import LockLimits
from massmigration_schema.options import Online
from massmigration_schema.plan import ChangePlan, MappedColumn

KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("SmallIntegerField", "IntegerField", "BigIntegerField", "PositiveIntegerField"), ()),
    **dict.fromkeys(("PositiveSmallIntegerField", "PositiveBigIntegerField", "TextField", "UUIDField"), ()),
    **dict.fromkeys(("DateField", "DateTimeField"), ()),
    "CharField": ("max_length",),
    "DecimalField": ("max_digits", "decimal_places"),
}
"""The fields that a key can have, with the names of their arguments."""

INTEGER = re.compile(r"^(?:tiny|small|medium|big)?int(?:eger)?(?:\(\d+\))?(?: unsigned)?$")
MODEL = "table"
"""The name of the model that stands for the table in the state of a project. It has the key only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSource:
    """What an `OnlineTable` says about its change."""

    app_label: str
    name: str
    table: str
    changes: tuple[AnyChange, ...]
    definition: str = ""
    """CREATE TABLE, in which `%(table)s` stands for the name. Empty: the table is a copy that is altered."""

    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin_columns: Sequence[str] | None = None
    dest_columns: Sequence[str] | None = None
    online: Online = dataclasses.field(default_factory=Online)
    is_original: bool = False
    """Whether tables and triggers have the names of Django Online Migration."""

    @property
    def key(self) -> str:
        """The key of the migration."""
        return f"{self.app_label}:{self.name}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the plan depends on, apart from the table."""
        parts = (
            self.table,
            self.changes,
            self.definition,
            sorted(self.renames.items()),
            self.origin_columns and sorted(self.origin_columns),
            self.dest_columns and sorted(self.dest_columns),
            self.online.reverse_sync,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def stored(source: TableSource, db_alias: str) -> Derivation | None:
    """Return the derivation with the plan that the change began with, or None if it has not begun."""
    change = ledger.get(db_alias, source.key)
    if change is None:
        return None
    plan = dataclasses.replace(ChangePlan.from_json(change.plan), operations=source.fingerprint)
    return derivation_of(plan, source.app_label, source.name)


def tried(source: TableSource, db_alias: str, dialect: SchemaDialect) -> Derivation:
    """Return the derivation that a trial on an empty copy of the table gives. Change nothing."""
    catalog, connection = dialect.catalog(db_alias), connections[db_alias]
    origin = catalog.read(source.table)
    if origin is None:
        reason = Refused("online.table", f"There is no table {source.table!r} in database {db_alias!r}.")
        return _refused(source, [reason])
    with connection.cursor() as cursor:
        keys = connection.introspection.get_primary_key_columns(cursor, source.table) or []
        described = {
            column.name: column for column in connection.introspection.get_table_description(cursor, source.table)
        }
    key_types = [_field_type(connection, described[key]) for key in keys]
    is_supported = len(keys) == 1 or (len(keys) > 1 and hasattr(models, "CompositePrimaryKey"))
    if not is_supported or any(kind[0] not in KEYS for kind in key_types):
        found = ", ".join(f"{key} ({kind[0]})" for key, kind in zip(keys, key_types, strict=True)) or "none"
        return _refused(
            source,
            [
                Refused(
                    "online.key",
                    f"The primary key of {source.table!r} is {found}; allowed: {', '.join(KEYS)}, and several columns "
                    "with Django 5.2 or newer.",
                )
            ],
        )
    plan = ChangePlan(
        key=source.key,
        table=source.table,
        old_key=tuple(keys),
        new_key=tuple(keys),
        key_types=tuple(key_types),
        columns=(),
        is_lossy=True,
        operations=source.fingerprint,
        definition=source.definition,
        statements=tuple(template(change, connection.ops.quote_name) for change in source.changes),
        is_original=source.is_original,
    )
    derivation = derivation_of(plan, source.app_label, source.name)
    tables = dialect.swap(db_alias, derivation, LockLimits()).tables
    try:
        with tables.trial():
            new = tables.read_new()
    except Refused as error:
        return _refused(source, [error])
    except DatabaseError as error:
        return _refused(source, [Refused("online.clause", f"The definition failed: {str(error).strip()}")])
    return _Mapping(source, derivation, origin, new).mapped()


def _refused(source: TableSource, refusals: list[Refused]) -> Derivation:
    return Derivation(
        app_label=source.app_label, name=source.name, operations=(), before=ProjectState(), refusals=refusals
    )


def derivation_of(plan: ChangePlan, app_label: str, name: str) -> Derivation:
    """Return the derivation with a plan, whose states have the table's key only."""
    before, after = (_state(app_label, plan.table, plan.key_types, key) for key in (plan.old_key, plan.new_key))
    return Derivation(
        app_label=app_label,
        name=name,
        operations=[Statement(each, MODEL) for each in plan.statements],
        before=before,
        after=after,
        model_name=MODEL,
        plan=plan,
        has_model=False,
    )


@functools.lru_cache(maxsize=64)
def _state(app_label: str, table: str, key_types: tuple[Any, ...], key: tuple[str, ...]) -> ProjectState:
    """Return a state with a model of the table that has the key only, which is enough to page over the rows."""
    fields = []
    for number, ((kind, *values), column) in enumerate(zip(key_types, key, strict=True), 1):
        arguments = dict(zip(KEYS[kind], values, strict=True))
        field = getattr(models, kind)(primary_key=len(key) == 1, db_column=column, **arguments)
        fields.append((f"key_{number}", field))
    if len(key) > 1:
        composite: Any = models
        fields.append(("pk", composite.CompositePrimaryKey(*(name for name, _ in fields))))
    state = ProjectState()
    state.add_model(ModelState(app_label, MODEL, fields, {"db_table": table}))
    return state


def _field_type(connection: Any, described: Any) -> tuple[str | int, ...]:
    """Return the class of Django's field for a column, and its arguments."""
    found = connection.introspection.get_field_type(described.type_code, described)
    name = str(found[0] if isinstance(found, tuple) else found).replace("AutoField", "IntegerField")
    if name == "CharField":
        return name, int(described.display_size or described.internal_size or 255)
    return (name, described.precision, described.scale) if name == "DecimalField" else (name,)


class _Mapping:
    """The columns of the new table, and where their values come from."""

    def __init__(
        self, source: TableSource, derivation: Derivation, origin: TableDefinition, new: TableDefinition
    ) -> None:
        self._source, self._derivation = source, derivation
        self._old, self._new = origin.columns, new.columns
        self._definition = new
        self._several = [name for name, text in origin.foreign_keys.items() if "," in text.partition("REFERENCES")[0]]
        self._refusals: list[Refused] = []

    def mapped(self) -> Derivation:
        """Return the derivation with the plan, or with the refusals."""
        pairs = self._pairs()
        plan = self._derivation.required_plan()
        names = {old: new for new, old in pairs.items()}
        new_key = tuple(names.get(old, "") for old in plan.old_key)
        keys = [text for text in self._definition.constraints.values() if text.startswith("PRIMARY KEY")]
        if [re.sub('[`"]', "", text) for text in keys] != [f"PRIMARY KEY ({', '.join(new_key)})"]:
            listed = ", ".join(plan.old_key)
            self._refuse("online.key", f"The new table must have the same primary key ({listed}) as the old one.")
        changed = [
            old
            for old in plan.old_key
            if old in names and self._kind(old, self._old) != self._kind(names[old], self._new)
        ]
        if changed:
            self._refuse(
                "online.key",
                f"Type or collation of {', '.join(changed)}, a column of the key, changes; allowed: other integers.",
            )
        if self._several:
            self._refuse("online.foreign_keys", f"{', '.join(self._several)} has several columns: not supported yet.")
        for name, column in self._new.items():
            if name not in pairs and _needs_value(column):
                self._refuse("online.default", f"{name} is NOT NULL and has no default for the rows that exist.")
        back = self._back(pairs) if self._source.online.reverse_sync else None
        if self._refusals:
            return _refused(self._source, self._refusals)
        plan = dataclasses.replace(plan, new_key=new_key, columns=_columns(pairs, self._old, self._new), back=back)
        has_other_key = any(
            self._old[old].type != self._new[new].type for old, new in zip(plan.old_key, new_key, strict=True)
        )
        found = derivation_of(plan, self._source.app_label, self._source.name)
        return dataclasses.replace(found, changes_key_type=has_other_key)

    def _kind(self, name: str, columns: Mapping[str, ColumnDefinition]) -> str:
        """Return type and collation of a column of the key, the same for all integers, which have one order."""
        return f"{INTEGER.sub('integer', columns[name].type)} {columns[name].collation}"

    def _pairs(self) -> dict[str, str]:
        """Return the column of the old table, by that of the new one, from which it gets its values."""
        source, known = self._source, {}
        for word, columns, given in (
            ("origin_columns", self._old, source.origin_columns),
            ("dest_columns", self._new, source.dest_columns),
        ):
            known[word] = set(columns) if given is None else set(given)
            if missing := sorted(known[word] - set(columns)):
                self._refuse("online.columns", f"{word} names {', '.join(missing)}; there is {', '.join(columns)}.")
        pairs = {name: name for name in self._old}
        for operation in self._derivation.operations:
            self._follow(operation, pairs)
        if source.definition:
            pairs = {name: name for name in self._old if name in self._new and name not in source.renames}
        for old, new in source.renames.items():
            if old not in self._old or new not in self._new:
                self._refuse(
                    "online.rename",
                    f"renames has {old!r}: {new!r}; old columns are {', '.join(self._old)}, and new ones are "
                    f"{', '.join(self._new)}.",
                )
            pairs = {name: each for name, each in pairs.items() if each != old}
            pairs[new] = old
        return {
            new: old
            for new, old in sorted(pairs.items())
            if new in known["dest_columns"] & set(self._new)
            and old in known["origin_columns"] & set(self._old)
            and not self._new[new].generated
        }

    def _follow(self, operation: Any, pairs: dict[str, str]) -> None:
        try:
            renamed = operation.renamed()
        except Refused as error:
            self._refusals.append(error)
            return
        before, after = operation.columns
        if renamed is not None and renamed[0] in pairs:
            pairs[renamed[1]] = pairs.pop(renamed[0])
        for name in before:
            if name not in after:
                pairs.pop(name, None)

    def _back(self, pairs: Mapping[str, str]) -> tuple[MappedColumn, ...]:
        backwards = {old: new for new, old in pairs.items() if not self._old[old].generated}
        for name, column in self._old.items():
            if name not in backwards and _needs_value(column):
                self._refuse(
                    "online.revert",
                    f"{name} is removed, and is NOT NULL without a default: with reverse_sync, new rows would have no "
                    "value for it in the old table. Make it nullable first, or do without reverse_sync.",
                )
        return _columns(backwards, self._new, self._old)

    def _refuse(self, code: str, message: str) -> None:
        self._refusals.append(Refused(code, f"{self._source.key}: {message}"))


def _needs_value(column: ColumnDefinition) -> bool:
    return not (column.is_nullable or column.default or column.generated or column.identity)


def _columns(
    pairs: Mapping[str, str], sources: Mapping[str, ColumnDefinition], targets: Mapping[str, ColumnDefinition]
) -> tuple[MappedColumn, ...]:
    """Return the columns of a table, with the sources of their values and the conversions."""
    found = []
    for target, source in pairs.items():
        kinds = [re.sub(r"\s*\([^)]*\)", "", each.type) for each in (sources[source], targets[target])]
        found.append(MappedColumn(name=target, source=source, cast=kinds[1] if kinds[0] != kinds[1] else ""))
    return tuple(found)
