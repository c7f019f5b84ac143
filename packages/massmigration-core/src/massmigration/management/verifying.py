"""Says what `massmigrate --verify` finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from massmigration import verifying
from massmigration.definitions.base import BaseMigration
from massmigration.management.bar import number


def report(migrations: Sequence[BaseMigration], db_alias: str) -> Iterator[tuple[str, bool]]:
    """A line for each migration that is applied, and whether something is wrong."""
    for migration in migrations:
        found = verifying.verify(migration, db_alias)
        if found.error:
            yield f"{migration.key}  applied, cannot be verified ({found.error})", True
        elif found.left:
            again = f"massmigration forget {migration.app_label} {migration.name} --database {db_alias}"
            rows = f"{number(found.left)} new {'row needs' if found.left == 1 else 'rows need'} it"
            yield f"{migration.key}  applied, {rows}; to do them: manage.py {again}, then massmigrate", True
        elif found.unknown:
            yield f"{migration.key}  applied, cannot be verified: {found.unknown}; remaining() would tell", False
        else:
            yield f"{migration.key}  applied, nothing is left", False
