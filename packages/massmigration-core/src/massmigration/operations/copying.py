"""Copies rows from one model to another, or to another place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import connections, router
from django.db.models import Model, QuerySet

from massmigration.definitions.stages import OnceStage, Stage
from massmigration.operations import namespaces, sequences
from massmigration.operations.base import DataOperation, also_known_as
from massmigration.operations.columns import columns_of
from massmigration.operations.context import Context
from massmigration.operations.insertion import Insertion
from massmigration.operations.lookup import all_rows, find_model
from massmigration.operations.namespaces import Place


class _Copy(DataOperation):
    """What both have in common."""

    fields: Sequence[str] | None
    map: Mapping[str, Any] | None
    overwrite: bool

    def subject(self, context: Context) -> type[Model]:
        return self.models(context)[0]

    def models(self, context: Context) -> tuple[type[Model], type[Model]]:
        """The model that is copied from, and the one that is copied to."""
        raise NotImplementedError

    def place(self, context: Context, target: type[Model], db_alias: str) -> Place:
        """Where the rows of `db_alias` go."""
        raise NotImplementedError

    def get_stages(self, context: Context) -> Sequence[Stage]:
        source, target = self.models(context)
        columns = columns_of(self, context, source, target, self.fields, self.map)

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            return all_rows(source, db_alias)

        def operation_batch(queryset: QuerySet[Any], db_alias: str) -> None:
            place = self.place(context, target, db_alias)
            # What is deleted or edited here and there meanwhile would be missed there, where it is not yet.
            Insertion(target, place, columns, overwrite=self.overwrite, holds=atomic).insert(queryset, db_alias)

        def end(db_alias: str) -> None:
            sequences.catch_up(target, self.place(context, target, db_alias))

        leaves = any(place.db_alias != db_alias for db_alias, place in self._places(context, source, target))
        atomic = context.atomic and not leaves
        is_statement = not leaves and not any(column.is_called for column in columns)
        mapped = self.mapped(
            context, get_queryset, operation_batch=operation_batch, atomic=atomic, is_statement=is_statement
        )
        ending = OnceStage(
            name=context.name, atomic=atomic, idle_limit=context.idle_limit, operation=end, is_ending=True
        )
        return [mapped, ending]

    def check_database(self, context: Context, db_alias: str) -> None:
        source, target = self.models(context)
        super().check_database(context, db_alias)
        place = self.place(context, target, db_alias)
        if place.db_alias == db_alias and place.schema is None and _table(source) == _table(target):
            raise self.refusal(
                context,
                f"it would copy {source._meta.label} onto itself, on database {db_alias!r}. Name another target.",
            )
        columns = columns_of(self, context, source, target, self.fields, self.map)
        if place.schema is not None and any(column.is_called for column in columns):
            names = ", ".join(column.field.name for column in columns if column.is_called)
            raise self.refusal(
                context,
                f"the defaults of {names} are computed in Python, and schema {place.schema!r} is written by SQL alone. "
                "Give an expression for them in map=.",
            )
        if not namespaces.has_table(place, target):
            raise self.refusal(context, f"there is no table {target._meta.db_table!r} {place}. Make it first.")

    def confirmation(self, context: Context) -> str:
        if not self.overwrite:
            return ""
        source, target = self.models(context)
        return f"It overwrites rows of {target._meta.label} by those of {source._meta.label} with the same keys."

    def _places(self, context: Context, source: type[Model], target: type[Model]) -> Iterator[tuple[str, Place]]:
        for db_alias in context.db_aliases:
            if db_alias in connections and router.allow_migrate_model(db_alias, source):
                yield db_alias, self.place(context, target, db_alias)


class CopyModelData(_Copy):
    """Copies the rows of a model to another model, with their primary keys.

    `fields`: names of the fields to copy; left out: all. `map`: by the name of a target's field, the name of a
    source's field, an expression, or a constant. A row whose key the target has already is left alone, or, with
    `overwrite`, overwritten. Where the routers have the models on different databases, rows go through Python.
    """

    @also_known_as(
        model_name="from_model", to_model_name="fields", to_app_label="to_model", overwrite_existing="overwrite"
    )
    def __init__(
        self,
        from_model: str | type[Model],
        to_model: str | type[Model],
        fields: Sequence[str] | str | None = None,
        map: Mapping[str, Any] | bool | None = None,
        overwrite: bool = False,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        if isinstance(fields, str):  # as Djangae has it: model, app label, name of the model, overwrite
            to_model, fields = f"{to_model}.{fields}", None
        if isinstance(map, bool):
            overwrite, map = map, None
        self.model = from_model
        self.to_model = to_model
        self.fields = fields
        self.map = map
        self.overwrite = overwrite
        self.batch_size = batch_size
        self.on_error = on_error

    def models(self, context: Context) -> tuple[type[Model], type[Model]]:
        source = find_model(self, context, self.model)
        target = find_model(self, context, self.to_model)
        if _table(source) == _table(target) and source._meta.concrete_model is target._meta.concrete_model:
            raise self.refusal(context, f"it would copy {source._meta.label} onto itself. Name another target.")
        return source, target

    def place(self, context: Context, target: type[Model], db_alias: str) -> Place:
        if router.allow_migrate_model(db_alias, target):
            return Place(db_alias=db_alias)
        return Place(db_alias=router.db_for_write(target))


class CopyModelDataToNamespace(_Copy):
    """Copies the rows of a model to the same model, or another, elsewhere, with their primary keys.

    `to_namespace`: a database alias; or, on PostgreSQL, a schema of the same database, on MariaDB and MySQL, a
    database of the same server; or, on Google's Datastore through gcloudc, a namespace that a database alias has.
    All else as for `CopyModelData`.
    """

    @also_known_as(model_name="model", overwrite_existing="overwrite")
    def __init__(
        self,
        model: str | type[Model],
        to_namespace: str,
        to_app_label: str | None = None,
        to_model_name: str | None = None,
        overwrite: bool = False,
        fields: Sequence[str] | None = None,
        map: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.to_namespace = to_namespace
        self.to_app_label = to_app_label
        self.to_model_name = to_model_name
        self.overwrite = overwrite
        self.fields = fields
        self.map = map
        self.batch_size = batch_size
        self.on_error = on_error

    def models(self, context: Context) -> tuple[type[Model], type[Model]]:
        source = find_model(self, context, self.model)
        app_label = self.to_app_label or source._meta.app_label
        name = self.to_model_name or source._meta.object_name
        return source, find_model(self, context, f"{app_label}.{name}")

    def place(self, context: Context, target: type[Model], db_alias: str) -> Place:
        found = namespaces.find(self.to_namespace, db_alias)
        if isinstance(found, str):
            raise self.refusal(context, found)
        return found

    def get_stages(self, context: Context) -> Sequence[Stage]:
        name: Any = self.to_namespace
        if not isinstance(name, str) or not name:
            raise self.refusal(context, f"to_namespace = {self.to_namespace!r} must be a text.")
        return super().get_stages(context)

    def _places(self, context: Context, source: type[Model], target: type[Model]) -> Iterator[tuple[str, Place]]:
        # Without asking a database: schemas do not leave theirs.
        alias = namespaces.alias_of(self.to_namespace)
        if alias is not None:
            yield from ((each, Place(db_alias=alias)) for each in context.db_aliases if each != alias)


def _table(model: type[Model]) -> str:
    return model._meta.db_table
