"""Deletes rows, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Manager, Model, QuerySet
from django.db.models.deletion import Collector

from massmigration.definitions.stages import Stage
from massmigration.operations.base import DataOperation, also_known_as
from massmigration.operations.context import Context
from massmigration.operations.lookup import all_rows
from massmigration.querysets import hold


class DeleteModelData(DataOperation):
    """Deletes all rows of a model, or those of `queryset`: a queryset, or a function that narrows one.

    With `cascade`, as `QuerySet.delete()` does: with what refers to the rows, and with signals. Without, one DELETE
    a batch and nothing else; a row that others refer to is then the database's to refuse.
    """

    reversible = False

    @also_known_as(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        queryset: QuerySet[Any] | Callable[[QuerySet[Any]], QuerySet[Any]] | None = None,
        cascade: bool = True,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.queryset = queryset
        self.cascade = cascade
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        model = self.subject(context)
        given = self.queryset
        if not self.cascade and model._meta.parents and not model._meta.proxy:
            raise self.refusal(
                context,
                f"{model._meta.label} inherits rows of {', '.join(each._meta.label for each in model._meta.parents)}; "
                "cascade=False would leave them behind. Leave out cascade.",
            )
        if given is not None and not isinstance(given, (QuerySet, Manager)) and not callable(given):
            raise self.refusal(context, f"queryset = {given!r} is neither a queryset nor a function that narrows one.")
        if isinstance(given, QuerySet) and given.model._meta.label != model._meta.label:
            raise self.refusal(context, f"queryset is one of {given.model._meta.label}, not of {model._meta.label}.")

        def get_queryset(db_alias: str) -> Any:
            rows = all_rows(model, db_alias)
            if callable(given) and not isinstance(given, (QuerySet, Manager)):
                return given(rows)
            return rows if given is None else given.all()

        is_statement = not self.cascade or _is_alone(model)
        return [
            self.mapped(context, get_queryset, operation_batch=self._delete, is_statement=is_statement, empties=True)
        ]

    def confirmation(self, context: Context) -> str:
        which = "all rows" if self.queryset is None else "rows"
        others = ", and what refers to them" if self.cascade else ""
        return f"It deletes {which} of {self.subject(context)._meta.label}{others}."

    def _delete(self, queryset: QuerySet[Any], db_alias: str) -> None:
        if not self.cascade:
            queryset._raw_delete(db_alias)
            return
        if not _is_alone(queryset.model):
            # Django reads what it deletes first; meanwhile, nobody is to edit a row out of the queryset.
            hold(queryset)
        queryset.delete()


def _is_alone(model: type[Model]) -> bool:
    """Whether nothing refers to its rows and nobody listens, so that Django deletes them by one statement."""
    return Collector(using=DEFAULT_DB_ALIAS).can_fast_delete(model._base_manager.all())
