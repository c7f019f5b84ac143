"""The facts about an online change that pages and commands show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections
from django.db.models import Count, QuerySet

from massmigration.definitions.details import Detail
from massmigration_schema.costs import steps
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import TableSwap
from massmigration_schema.models import OnlineChange

MOST_REASONS = 5
NEEDS_LOCK = ("prepare", "wait for the cutover", "cut over")
"""The stages that request the lock of the whole table, or that precede this."""

STATEMENTS = "Statements, executed on the new table"


def before_begin(derivation: Derivation, sql: str) -> Iterator[Detail]:
    """Yield the facts about a change that has not begun. `sql`: the statements for the new table."""
    if derivation.plan is not None:
        yield Detail(label="Table", value=derivation.plan.table)
        yield Detail(label=STATEMENTS, value=sql)
    for warning in derivation.warnings:
        yield Detail(label="Warning", value=warning, level="warning")
    for refusal in derivation.refusals:
        yield Detail(label="Refused", value=str(refusal), level="error")


def before_swap(
    change: OnlineChange, stage: str, swap: TableSwap, *, logged: QuerySet[Any] | None, sql: str
) -> Iterator[Detail]:
    """Yield the facts about a change before the swap. `logged`: the rows of the change log, if there is one."""
    yield from _common(change, stage, swap)
    if logged is not None:
        yield Detail(label="Rows in the change log", value=logged.count())
        if reasons := _reasons(logged):
            yield Detail(label="Reasons in the change log", value=reasons, is_sensitive=True)
    if swap.is_interrupted():
        text = "The application's writes of rows that do not fit are refused, until the next attempt or an abort."
        yield Detail(label="Interrupted cutover", value=text, level="warning")
    # While rows are copied or compared, the batches themselves are such transactions.
    if stage in NEEDS_LOCK and (blockers := swap.tables.lock.blockers(change.table)):
        text = "\n".join(map(str, blockers))
        yield Detail(label="Old transactions on the table", value=text, level="warning", is_sensitive=True)
    for warning in swap.tables.derivation.warnings:
        yield Detail(label="Warning", value=warning, level="warning")
    yield Detail(label=STATEMENTS, value=sql)


def after_swap(change: OnlineChange, stage: str, swap: TableSwap, due: Any) -> Iterator[Detail]:
    """Yield the facts about a change whose tables are swapped. `due`: until when the old table is kept."""
    yield from _common(change, stage, swap)
    yield Detail(label="Swapped", value=change.swapped_at, level="success")
    if change.reverted_at is not None:
        yield Detail(label="Reverted", value=change.reverted_at, level="warning")
    elif change.cleaned_at is None:
        yield Detail(label="Old table is kept until", value=due)


def _common(change: OnlineChange, stage: str, swap: TableSwap) -> Sequence[Detail]:
    level = "warning" if change.differences else "info"
    return [
        Detail(label="Table", value=change.table),
        *([Detail(label="Stage", value=stage)] if stage else []),
        Detail(label="Tables and triggers", value="\n".join(swap.tables.made()) or "none"),
        Detail(label="Rows that differed", value=change.differences, level=level),
        Detail(label="Compared", value=change.verified_at),
    ]


def _reasons(logged: QuerySet[Any]) -> str:
    """Return how many rows of the change log have each reason, the most frequent reasons first."""
    found = logged.order_by().values("why").annotate(count=Count("pk")).order_by("-count", "why")
    lines = [f"{each['count']}: {each['why']}" for each in found[: MOST_REASONS + 1]]
    return "\n".join([*lines[:MOST_REASONS], *(["…"] if len(lines) > MOST_REASONS else [])])


def statements(derivation: Derivation, db_alias: str) -> str:
    """Return the statements of the operations, as `sqlmigrate` shows them. None is executed."""
    if derivation.plan is None:
        return ""
    connection: Any = connections[db_alias]
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        for step in steps(derivation):
            step.operation.database_forwards(derivation.app_label, editor, step.before, step.after)
    return "\n".join(editor.collected_sql)
