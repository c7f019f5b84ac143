"""Online schema changes of large live tables, from ordinary Django migrations, or for tables without a model."""

from typing import TYPE_CHECKING, Any

from massmigration_schema.clauses import AddColumn, AddIndex, DropColumn, RenameColumn
from massmigration_schema.migration import OnlineMigration
from massmigration_schema.options import Online

if TYPE_CHECKING:
    from massmigration_schema.table import OnlineTable

__all__ = ["AddColumn", "AddIndex", "DropColumn", "Online", "OnlineMigration", "OnlineTable", "RenameColumn"]


def __getattr__(name: str) -> Any:
    if name == "OnlineTable":
        from massmigration_schema.table import OnlineTable  # it imports models, so not before the apps are loaded

        return OnlineTable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
