"""The derivation of a plan from the operations of a Django migration. It executes no statement."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import connections, migrations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models import Model

from massmigration_schema.conversions import (
    AnyField,
    base_type,
    has_db_default,
    index_may_reject,
    key_fields,
    key_refusal,
    may_reject,
    target_of,
    type_of,
)
from massmigration_schema.exceptions import Refused, RefusedForReasons
from massmigration_schema.options import Online
from massmigration_schema.plan import ChangePlan, MappedColumn
from massmigration_schema.states import without_children
from massmigration_schema.transforms import compiled

CHANGES: tuple[type[Operation], ...] = (
    migrations.AddConstraint,
    migrations.AddField,
    migrations.AddIndex,
    migrations.AlterField,
    migrations.AlterIndexTogether,
    migrations.AlterModelTableComment,
    migrations.AlterUniqueTogether,
    migrations.RemoveConstraint,
    migrations.RemoveField,
    migrations.RemoveIndex,
    migrations.RenameField,
    migrations.RenameIndex,
)
OF_STATE: tuple[type[Operation], ...] = (migrations.AlterModelManagers, migrations.AlterModelOptions)
"""Operations that change the models and not the database."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivation:
    """A plan, and what it was derived from: a Django migration, or clauses for a table without a model."""

    app_label: str
    name: str
    operations: Sequence[Operation]
    before: ProjectState
    model_name: str = ""
    plan: ChangePlan | None = None
    """None: the operations are refused."""

    refusals: list[Refused] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    changes_key_type: bool = False
    after: ProjectState | None = None
    """The state after the migration, without the models that refer to this one."""

    has_model: bool = True
    """Whether the states describe the table. Otherwise, their model has its key only."""

    @property
    def new_model(self) -> type[Model]:
        """The model after the migration. It exists if there is a plan."""
        assert self.after is not None
        return self.after.apps.get_model(self.app_label, self.model_name)

    @property
    def old_model(self) -> type[Model]:
        """The model before the migration."""
        return self.before.apps.get_model(self.app_label, self.model_name)

    def reversed(self) -> Derivation:
        """Return the derivation of the way back. Raise `Refused` if there is none."""
        reverse = self.required_plan().reverse
        if reverse is None:
            name = f"{self.app_label}.{self.name}"
            raise Refused("online.revert", f"{name} cannot be reverted: it has no Online(reverse_sync=True).")
        return dataclasses.replace(self, plan=reverse)

    def required_plan(self) -> ChangePlan:
        """Return the plan. Raise `RefusedForReasons` if there is none."""
        if self.plan is None or self.refusals:
            raise RefusedForReasons(f"{self.app_label}.{self.name}", self.refusals)
        return self.plan


def derive(migration: Any, before: ProjectState, db_alias: str) -> Derivation:
    """Return the plan of a schema migration, or the reasons why it cannot be made online.

    `before`: the state of the project before the migration.
    """
    found = Derivation(
        app_label=migration.app_label, name=migration.name, operations=migration.operations, before=before
    )
    refusals = [*_refused_operations(found.operations)]
    names = {_model_of(operation) for operation in found.operations if isinstance(operation, CHANGES)}
    if len(names) != 1 and not refusals:
        listed = ", ".join(sorted(names)) or "none"
        refusals.append(
            Refused("online.models", f"Found changes of {len(names)} models ({listed}); allowed: 1 in a migration.")
        )
    found = dataclasses.replace(found, refusals=refusals)
    if refusals:
        return found
    online = getattr(migration, "online", None) or Online()
    return _Follower(dataclasses.replace(found, model_name=names.pop()), db_alias, online).followed()


def _refused_operations(operations: Sequence[Operation]) -> Iterator[Refused]:
    for operation in operations:
        if isinstance(operation, (*CHANGES, *OF_STATE)):
            continue
        yield Refused(
            "online.operation",
            f"{type(operation).__name__} cannot be made online. Move it to a migration of its own; allowed: "
            f"{', '.join(each.__name__ for each in CHANGES)}.",
        )


def _model_of(operation: Any) -> str:
    return str(getattr(operation, "model_name", None) or operation.name).lower()


class _Follower:
    """The path of each column through the operations, by its identity and not by its name."""

    def __init__(self, found: Derivation, db_alias: str, online: Online) -> None:
        self._found = found
        self._online = online
        self._connection = connections[db_alias]
        self._refusals: list[Refused] = []
        self._warnings: list[str] = []
        self._is_lossy = False
        self._sources = {field.name: field for field in found.old_model._meta.local_concrete_fields}
        self._many_to_many = {field.name for field in found.old_model._meta.local_many_to_many}
        self._state = without_children(found.before, found.app_label, found.model_name)

    def followed(self) -> Derivation:
        """Return the derivation with its plan, refusals and warnings."""
        for operation in self._found.operations:
            before = self._fields()
            self._follow(operation, before)
            operation.state_forwards(self._found.app_label, self._state)
            self._judge(operation, before, self._fields())
        self._check_model()
        self._check_transforms()
        plan = self._plan()
        if self._online.reverse_sync:
            plan = dataclasses.replace(plan, back=self._back())
        self._warn_of_children()
        keys = self._keys
        return dataclasses.replace(
            self._found,
            plan=None if self._refusals else plan,
            refusals=list(self._refusals),
            warnings=list(self._warnings),
            changes_key_type=any(type_of(one, self._connection) != type_of(new, self._connection) for one, new in keys),
            after=self._state,
        )

    @property
    def _model(self) -> type[Model]:
        return self._state.apps.get_model(self._found.app_label, self._found.model_name)

    @property
    def _keys(self) -> list[tuple[AnyField, AnyField]]:
        """The fields of the old primary key, each with the field of the new one in its place."""
        return list(zip(key_fields(self._found.old_model), key_fields(self._model), strict=False))

    def _fields(self) -> dict[str, AnyField]:
        return {field.name: field for field in self._model._meta.local_fields}

    def _follow(self, operation: Any, fields: dict[str, AnyField]) -> None:
        if isinstance(operation, migrations.RenameField):
            if operation.old_name in self._sources:
                self._sources[operation.new_name] = self._sources.pop(operation.old_name)
            self._warnings.append(
                f"RenameField {operation.old_name} -> {operation.new_name}: code that runs during the swap uses the "
                "old name, and fails until it is replaced. To avoid this, add a column, fill it, and remove the old "
                "one later."
            )
        elif isinstance(operation, migrations.RemoveField):
            self._sources.pop(operation.name, None)
            self._warnings.append(
                f"RemoveField {operation.name}: code that still reads or writes the column fails after the swap. First "
                "deploy code that does not use it."
            )

    def _judge(self, operation: Any, before: dict[str, AnyField], after: dict[str, AnyField]) -> None:
        """Find out whether a row may not fit after the operation, and what is not supported."""
        if isinstance(operation, (migrations.AddField, migrations.AlterField, migrations.RemoveField)):
            if operation.name in self._many_to_many or getattr(
                getattr(operation, "field", None), "many_to_many", False
            ):
                self._refuse(
                    "online.many_to_many",
                    f"{operation.name} is many-to-many, which is a table of its own. Use a migration of its own.",
                )
                return
            self._judge_field(operation, before.get(operation.name), after.get(operation.name))
        elif isinstance(operation, (migrations.AddConstraint, migrations.AlterUniqueTogether)):
            self._is_lossy = True
        elif isinstance(operation, migrations.AddIndex):
            self._is_lossy |= index_may_reject(operation.index, after)

    def _judge_field(self, operation: Any, old: AnyField | None, new: AnyField | None) -> None:
        if new is None:
            return
        if isinstance(operation, migrations.AddField):
            self._is_lossy |= bool(new.unique)
            if not new.null and not has_db_default(new):
                self._warnings.append(
                    f"AddField {new.name}: it is NOT NULL without db_default, so that an INSERT of code that does not "
                    "know it fails after the swap."
                )
        elif old is not None:
            self._is_lossy |= may_reject(old, new, self._connection)
        is_new_key = _is_constrained(new) and (old is None or not _is_constrained(old) or _target(old) != _target(new))
        has_values = old is not None or new.has_default() or new.name in self._online.transforms
        if is_new_key and has_values:
            self._refuse(
                "online.new_foreign_key",
                f"{type(operation).__name__} adds a foreign key to {new.name}, which has values already. An online "
                "change does not support this yet: use db_constraint=False here, and add the foreign key later.",
            )

    def _check_model(self) -> None:
        for old, new in self._keys:
            if self._sources.get(new.name) is not old or len(key_fields(self._model)) != len(self._keys):
                self._refuse("online.key", "The primary key is replaced. The old and the new table must share it.")
            elif reason := key_refusal(old, new, self._connection):
                self._refuse("online.key", f"The primary key {old.name} {reason}")
        label = f"{self._found.app_label}.{self._found.model_name}"
        itself = [
            field.name
            for field in self._model._meta.local_concrete_fields
            if _is_constrained(field) and _target(field)[0] == label
        ]
        if itself:
            self._refuse("online.self_reference", f"{', '.join(itself)} refers to the table itself: not supported yet.")

    def _check_transforms(self) -> None:
        """Refuse transforms of what is no column, or cannot get other values. Transformed rows may not fit."""
        columns = {
            field.name
            for field in self._model._meta.local_concrete_fields
            if not field.primary_key and not getattr(field, "generated", False)
        }
        for name in self._online.transforms:
            self._is_lossy = True
            if name not in columns:
                self._refuse(
                    "online.transform",
                    f"The transform of {name!r} is for no field whose values can be given; the new "
                    f"{self._model._meta.label} has {', '.join(sorted(columns))}.",
                )

    def _warn_of_children(self) -> None:
        """Warn of the columns of other tables that keep their type, because a change alters one table."""
        for old, new in self._keys:
            self._warn_of_children_of(old, [str(each.rel_db_type(self._connection)) for each in (old, new)])

    def _warn_of_children_of(self, key: AnyField, kinds: list[str]) -> None:
        relations: Any = self._found.old_model._meta.get_fields(include_hidden=True)
        template = self._connection.SchemaEditorClass.sql_alter_column_type
        children = {
            f"{each.field.model._meta.db_table} "
            + template % {"column": each.field.column, "type": kinds[1], "collation": "", "comment": ""}
            # MODIFY replaces the whole definition of the column.
            + (" NOT NULL" if template.startswith("MODIFY") and not each.field.null else "")
            for each in relations
            if each.auto_created and not each.concrete and each.field.column and each.field.target_field == key
        }
        if kinds[0] != kinds[1] and children:
            listed = "; ALTER TABLE ".join(sorted(children))
            self._warnings.append(
                f"The key becomes {kinds[1]}, and columns of other tables that refer to it stay {kinds[0]}. Alter them "
                f"before the first key that is too large for them: ALTER TABLE {listed}"
            )

    def _plan(self) -> ChangePlan:
        columns = [self._mapped(field) for field in self._model._meta.local_concrete_fields]
        return ChangePlan(
            key=f"{self._found.app_label}:{self._found.name}.schema",
            table=self._found.old_model._meta.db_table,
            old_key=tuple(str(old.column) for old, _ in self._keys),
            new_key=tuple(str(new.column) for _, new in self._keys),
            columns=tuple(column for column in columns if column is not None),
            is_lossy=self._is_lossy,
            operations=hashlib.sha256("\n".join(map(_text, self._found.operations)).encode()).hexdigest(),
        )

    def _back(self) -> tuple[MappedColumn, ...]:
        """Return the columns of the way back. Those that the new table lacks get their default in new rows."""
        fields = self._model._meta.local_concrete_fields
        new = {self._sources[field.name].name: field for field in fields if field.name in self._sources}
        columns = []
        for old in self._found.old_model._meta.local_concrete_fields:
            name, kept = str(old.column), new.get(old.name)
            if kept is not None and kept.name in self._online.transforms:
                self._refuse(
                    "online.revert",
                    f"{kept.name} has a transform, so that its values cannot be written back to the old {old.name}. Do "
                    "without reverse_sync, or give the values to a new field.",
                )
            if getattr(old, "generated", False):
                continue
            if kept is not None:
                bases = [base_type(each, self._connection) for each in (kept, old)]
                cast = bases[1] if bases[0] != bases[1] else ""
                columns.append(MappedColumn(name=name, source=str(kept.column), cast=cast))
            elif not has_db_default(old) and (literal := self._literal(old)):
                columns.append(MappedColumn(name=name, literal=literal))
            elif not has_db_default(old) and not old.null:
                self._refuse(
                    "online.revert",
                    f"{old.name} is removed, and is NOT NULL without a default: with reverse_sync, new rows would have "
                    "no value for it in the old table. Make it nullable first, or do without reverse_sync.",
                )
        return tuple(columns)

    def _mapped(self, field: AnyField) -> MappedColumn | None:
        """Return where the values of a column come from. None: from the database, by its default or expression."""
        if getattr(field, "generated", False):
            return None
        name, old = str(field.column), self._sources.get(field.name)
        if field.name in self._online.transforms:
            return self._transformed(field)
        if old is not None:
            literal = self._literal(field) if old.null and not field.null else ""
            bases = [base_type(each, self._connection) for each in (old, field)]
            return MappedColumn(
                name=name, source=str(old.column), literal=literal, cast=bases[1] if bases[0] != bases[1] else ""
            )
        if has_db_default(field):
            return None
        literal = self._literal(field)
        if literal:
            return MappedColumn(name=name, literal=literal)
        if not field.null:
            self._refuse("online.default", f"{field.name} is NOT NULL and has no default for the rows that exist.")
        return None

    def _transformed(self, field: AnyField) -> MappedColumn:
        editor: Any = self._connection.schema_editor()
        is_new = field.name not in self._sources
        if is_new and not field.null and not has_db_default(field) and editor.effective_default(field) is None:
            self._refuse(
                "online.default",
                f"{field.name} is NOT NULL and has no default for the time before its transform is computed, when "
                "`migrate` alters a small table. Give it one, with preserve_default=False.",
            )
        expression, refused = compiled(
            field.name,
            self._online.transforms[field.name],
            self._found.old_model,
            self._connection.alias,
            lambda value: self._quoted(editor, value),
        )
        if refused is not None:
            self._refusals.append(refused)
        return MappedColumn(name=str(field.column), expression=expression, cast=base_type(field, self._connection))

    def _literal(self, field: AnyField) -> str:
        """Return the SQL of the value that Django gives to rows without one, or an empty string."""
        editor: Any = self._connection.schema_editor()
        if has_db_default(field):
            sql, params = editor.db_default_sql(field)
            return str(sql % tuple(self._quoted(editor, each) for each in params)) if params else str(sql)
        value = editor.effective_default(field)
        if value is None:
            return ""
        is_now = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
        if is_now or self._quoted(editor, value) != self._quoted(editor, editor.effective_default(field)):
            self._refuse(
                "online.default",
                f"The default of {field.name} is another value each time, and Django would write one of them to every "
                "row. Make the field nullable, and fill it with a mass migration.",
            )
            return ""
        return self._quoted(editor, value)

    def _quoted(self, editor: Any, value: Any) -> str:
        self._connection.ensure_connection()
        quoted = editor.quote_value(value)
        text = quoted.decode() if isinstance(quoted, bytes) else str(quoted)
        # The schema editor doubles the percent signs of texts, because it formats its statements.
        return text.replace("%%", "%") if isinstance(value, str) else text

    def _refuse(self, code: str, message: str) -> None:
        self._refusals.append(Refused(code, message))


def _is_constrained(field: AnyField) -> bool:
    return field.remote_field is not None and bool(getattr(field, "db_constraint", False))


def _target(field: AnyField) -> tuple[str, str]:
    """Return the label of the model that a foreign key refers to, and the column."""
    related: Any = field.related_model
    with contextlib.suppress(FieldDoesNotExist):
        return related._meta.label_lower, str(target_of(field).column)
    return related._meta.label_lower, ""


def _text(operation: Operation) -> str:
    """Return an operation as a migration file has it, in every process the same."""
    name, args, kwargs = operation.deconstruct()
    values = [*enumerate(args), *sorted(kwargs.items())]
    sorted_sets = [(key, sorted(each) if isinstance(each, (set, frozenset)) else each) for key, each in values]
    try:
        return f"{name} {[(key, MigrationWriter.serialize(each)[0]) for key, each in sorted_sets]}"
    except ValueError:  # a function without a name
        return operation.describe()
