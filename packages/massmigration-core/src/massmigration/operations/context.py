"""The context that operations get from their migration, and the protocol that schema migrations use operations by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from django.db.models import Model

from massmigration.definitions.stages import Stage, StageOptions
from massmigration.exceptions import BadMigrationFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperationContext:
    """The migration that contains an operation."""

    name: str
    """The migration's key."""

    operation_name: str
    """The operation's class name, for messages."""

    app_label: str
    apps: Any
    """The app registry that models are looked up in: the project's, or that of a historical state."""

    db_aliases: Sequence[str]
    """The databases that the migration may run on."""

    options: StageOptions = dataclasses.field(default_factory=StageOptions)
    """The migration's options; an operation may override some of them."""

    def error(self, problem: str) -> BadMigrationFile:
        """Return the error for something that is wrong with the operation."""
        return BadMigrationFile(f"{self.operation_name} in migration {self.name!r}: {problem}")


class StageSource(Protocol):
    """The attributes and methods of an operation that a schema migration needs."""

    def get_stages(self, context: OperationContext) -> Sequence[Stage]: ...

    def subject(self, context: OperationContext) -> type[Model]: ...

    def check_database(self, context: OperationContext, db_alias: str) -> None: ...

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]: ...
