"""Template tags that check whether a migration is applied."""

from __future__ import annotations

from django import template

from massmigration.enforcement.requirements import Requirement
from massmigration.exceptions import RequiredMigrationNotApplied

register = template.Library()


@register.filter
def migrated(migration_identifier: str, db_aliases: str = "") -> bool:
    """Return whether a migration is applied: `{% if "app:0001_name"|migrated %}`. It is always true in tests.

    `|migrated:"a b"` checks the databases `a` and `b`.
    """
    return is_migrated(migration_identifier, db_aliases)


@register.simple_tag
def is_migrated(migration_identifier: str, db_aliases: str = "", skip_in_tests: bool = True) -> bool:
    """Return whether a migration is applied: `{% is_migrated "app:0001_name" db_aliases="a b" as ready %}`.

    It is always true in tests, unless `skip_in_tests=False`.
    """
    try:
        Requirement(migration_identifier, db_aliases.split(), skip_in_tests=skip_in_tests).check("A template")
    except RequiredMigrationNotApplied:
        return False
    return True
