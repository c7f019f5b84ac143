"""Operations on whole rows: copy them to another model, database or schema, or delete them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.models import Manager, Model, Q, QuerySet
from django.db.models.deletion import Collector

from massmigration.definitions.stages import OnceStage, Stage
from massmigration.dialects import dialect_of
from massmigration.exceptions import BadMigrationFile
from massmigration.operations import copy_rows
from massmigration.operations.base import DataOperation, accepts_djangae_names
from massmigration.operations.context import OperationContext
from massmigration.operations.copy_rows import Column, Insertion, Place, columns_of
from massmigration.operations.validation import find_model
from massmigration.paging.querysets import all_rows, hold


class _Copy(DataOperation):
    """The common part of the operations that copy rows."""

    def __init__(
        self,
        model: str | type[Model],
        *,
        fields: Sequence[str] | None,
        map: Mapping[str, Any] | None,
        overwrite: bool,
        batch_size: int | None,
        on_error: str | None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.fields = fields
        self.map = map
        self.overwrite = overwrite

    def subject(self, context: OperationContext) -> type[Model]:
        return self.models(context)[0]

    def models(self, context: OperationContext) -> tuple[type[Model], type[Model]]:
        """Return the model that is copied from and the model that is copied to."""
        raise NotImplementedError

    def place(self, context: OperationContext, target: type[Model], db_alias: str) -> Place:
        """Return the place that the rows of `db_alias` are copied to."""
        raise NotImplementedError

    def columns(self, context: OperationContext) -> list[Column]:
        """Return the columns that are written. Raise `BadMigrationFile` for a column without a value."""
        source, target = self.models(context)
        return columns_of(context, source, target, self.fields, self.map)

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        source, target = self.models(context)
        columns = self.columns(context)

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            return all_rows(source, db_alias)

        def operation_batch(queryset: QuerySet[Any], db_alias: str) -> None:
            place = self.place(context, target, db_alias)
            # An edit that arrives between the read and the write would be lost in the copy.
            Insertion(target, place, columns, overwrite=self.overwrite, holds=atomic).insert(queryset, db_alias)

        def end(db_alias: str) -> None:
            copy_rows.advance_sequence(target, self.place(context, target, db_alias))

        is_elsewhere = any(place.db_alias != db_alias for db_alias, place in self._places(context, source, target))
        atomic = context.options.atomic and not is_elsewhere
        is_statement = not is_elsewhere and not any(column.is_called for column in columns)
        mapped = self.mapped(
            context, get_queryset, operation_batch=operation_batch, atomic=atomic, is_statement=is_statement
        )
        ending = OnceStage(
            name=context.name, atomic=atomic, idle_limit=context.options.idle_limit, operation=end, is_ending=True
        )
        return [mapped, ending]

    def check_database(self, context: OperationContext, db_alias: str) -> None:
        source, target = self.models(context)
        super().check_database(context, db_alias)
        place = self.place(context, target, db_alias)
        if place.db_alias == db_alias and place.schema is None and _table(source) == _table(target):
            raise _copies_onto_itself(context, source, f", on database {db_alias!r}")
        if self.overwrite and not dialect_of(place.db_alias).has_sql:
            raise context.error(
                f"rows on database {place.db_alias!r} cannot be overwritten. Remove overwrite, or copy with your own "
                "migration."
            )
        called = [column.field.name for column in self.columns(context) if column.is_called]
        if place.schema is not None and called:
            raise context.error(
                f"the defaults of {', '.join(called)} are computed in Python, but rows are copied to schema "
                f"{place.schema!r} with SQL only. Pass an expression for each of them in map=."
            )
        if not copy_rows.has_table(place, target):
            raise context.error(f"there is no table {target._meta.db_table!r} {place}. Create it first.")

    def confirmation(self, context: OperationContext) -> str:
        if not self.overwrite:
            return ""
        source, target = self.models(context)
        return (
            f"It overwrites rows of {target._meta.label} with the rows of {source._meta.label} that have the same keys."
        )

    def _places(
        self, context: OperationContext, source: type[Model], target: type[Model]
    ) -> Iterator[tuple[str, Place]]:
        for db_alias in context.db_aliases:
            if db_alias in connections and router.allow_migrate_model(db_alias, source):
                yield db_alias, self.place(context, target, db_alias)


class CopyModelData(_Copy):
    """An operation that copies the rows of a model to another model, with their primary keys.

    `fields`: names of the fields to copy (default: all). `map`: a dict from names of the target's fields to names of
    the source's fields, expressions or constants. `overwrite`: overwrite the rows whose keys the target already has
    (default: skip them). If the routers put the models on different databases, rows are copied through Python.
    """

    @accepts_djangae_names(
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
        if isinstance(fields, str):  # Djangae's order: model, app label, name of the model, overwrite
            to_model, fields = f"{to_model}.{fields}", None
        if isinstance(map, bool):
            overwrite, map = map, None
        super().__init__(
            from_model, fields=fields, map=map, overwrite=overwrite, batch_size=batch_size, on_error=on_error
        )
        self.to_model = to_model

    def models(self, context: OperationContext) -> tuple[type[Model], type[Model]]:
        source = find_model(context, self.model)
        target = find_model(context, self.to_model)
        if _table(source) == _table(target) and source._meta.concrete_model is target._meta.concrete_model:
            raise _copies_onto_itself(context, source)
        return source, target

    def place(self, context: OperationContext, target: type[Model], db_alias: str) -> Place:
        if router.allow_migrate_model(db_alias, target):
            return Place(db_alias=db_alias)
        return Place(db_alias=router.db_for_write(target))


class CopyModelDataToNamespace(_Copy):
    """An operation that copies the rows of a model, with their primary keys, to another database or schema.

    `to_namespace`: a database alias. On PostgreSQL, it can be a schema of the same database; on MariaDB and MySQL,
    another database of the same server; on Datastore, the `NAMESPACE` of a database alias. `to_app_label` and
    `to_model_name`: the model there (default: the same). The other arguments are the same as for `CopyModelData`.
    """

    @accepts_djangae_names(model_name="model", overwrite_existing="overwrite")
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
        super().__init__(model, fields=fields, map=map, overwrite=overwrite, batch_size=batch_size, on_error=on_error)
        self.to_namespace = to_namespace
        self.to_app_label = to_app_label
        self.to_model_name = to_model_name

    def models(self, context: OperationContext) -> tuple[type[Model], type[Model]]:
        source = find_model(context, self.model)
        app_label = self.to_app_label or source._meta.app_label
        name = self.to_model_name or source._meta.object_name
        return source, find_model(context, f"{app_label}.{name}")

    def place(self, context: OperationContext, target: type[Model], db_alias: str) -> Place:
        found = copy_rows.find_place(self.to_namespace, db_alias)
        if isinstance(found, str):
            raise context.error(found)
        return found

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        name: Any = self.to_namespace
        if not isinstance(name, str) or not name:
            raise context.error(f"to_namespace = {self.to_namespace!r} must be a non-empty string.")
        return super().get_stages(context)

    def _places(
        self, context: OperationContext, source: type[Model], target: type[Model]
    ) -> Iterator[tuple[str, Place]]:
        # Only a database alias can be another database, so this needs no query for schemas.
        alias = copy_rows.alias_of(self.to_namespace)
        if alias is not None:
            yield from ((each, Place(db_alias=alias)) for each in context.db_aliases if each != alias)


def _table(model: type[Model]) -> str:
    return model._meta.db_table


def _copies_onto_itself(context: OperationContext, model: type[Model], where: str = "") -> BadMigrationFile:
    return context.error(f"it would copy {model._meta.label} onto itself{where}. Name another target.")


class DeleteModelData(DataOperation):
    """An operation that deletes the rows of a model.

    `queryset`: the rows to delete, or a function that filters a queryset (default: all rows). `cascade`: delete the
    rows that refer to them and send signals, as `QuerySet.delete()` does. Without it, each batch is one DELETE, and the
    database refuses to delete rows that others refer to.
    """

    reversible = False

    @accepts_djangae_names(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        queryset: QuerySet[Any] | Callable[[QuerySet[Any]], QuerySet[Any]] | None = None,
        cascade: bool = True,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.queryset = queryset
        self.cascade = cascade

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        given = self.queryset
        if not self.cascade and model._meta.parents and not model._meta.proxy:
            raise context.error(
                f"{model._meta.label} has rows in the tables of its parents "
                f"{', '.join(each._meta.label for each in model._meta.parents)}, which cascade=False would not delete. "
                "Remove cascade=False."
            )
        if given is not None and not isinstance(given, (QuerySet, Manager)) and not callable(given):
            raise context.error(f"queryset = {given!r} must be a queryset or a function that filters one.")
        if isinstance(given, QuerySet) and given.model._meta.label != model._meta.label:
            raise context.error(f"queryset is of model {given.model._meta.label}; it must be of {model._meta.label}.")

        def get_queryset(db_alias: str) -> Any:
            rows = all_rows(model, db_alias)
            if callable(given) and not isinstance(given, (QuerySet, Manager)):
                return given(rows)
            return rows if given is None else given.all()

        is_statement = not self.cascade or _is_alone(model)
        return [
            self.mapped(context, get_queryset, operation_batch=self._delete, is_statement=is_statement, empties=True)
        ]

    def confirmation(self, context: OperationContext) -> str:
        which = "all rows" if self.queryset is None else "rows"
        others = ", and the rows that refer to them" if self.cascade else ""
        return f"It deletes {which} of {self.subject(context)._meta.label}{others}."

    def _delete(self, queryset: QuerySet[Any], db_alias: str) -> None:
        if not self.cascade:
            queryset._raw_delete(db_alias)
            return
        if not _is_alone(queryset.model):
            # Django reads the rows before it deletes them. A concurrent edit must not move one out of the queryset.
            hold(queryset)
        if type(queryset).delete is not QuerySet.delete:  # the project has its own delete()
            queryset.delete()
            return
        collector = _Collector(using=db_alias, origin=queryset)
        collector.collect(queryset.select_related(None).order_by())
        collector.delete()


class _Collector(Collector):
    """A variant of Django's collector that also finds the referring rows that a base manager filters out."""

    def related_objects(self, related_model: Any, related_fields: Any, objs: Any) -> QuerySet[Any]:
        refers = Q(*((f"{field.name}__in", objs) for field in related_fields), _connector=Q.OR)
        return all_rows(related_model, str(self.using)).filter(refers)


def _is_alone(model: type[Model]) -> bool:
    """Return whether Django deletes the rows with one statement: nothing refers to them, and no signal has "
    "receivers."""
    return Collector(using=DEFAULT_DB_ALIAS).can_fast_delete(all_rows(model, DEFAULT_DB_ALIAS))
