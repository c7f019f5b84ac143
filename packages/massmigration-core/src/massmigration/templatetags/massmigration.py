"""Asks in templates whether a migration is applied."""

from __future__ import annotations

from django import template

from massmigration.exceptions import RequiredMigrationNotApplied
from massmigration.requirement import Requirement

register = template.Library()


@register.filter
def migrated(migration_identifier: str, db_aliases: str = "") -> bool:
    """`{% if "app:0001_name"|migrated %}`; `|migrated:"a b"` asks about these databases. In tests it is true."""
    return is_migrated(migration_identifier, db_aliases)


@register.simple_tag
def is_migrated(migration_identifier: str, db_aliases: str = "", skip_in_tests: bool = True) -> bool:
    """`{% is_migrated "app:0001_name" db_aliases="a b" skip_in_tests=False as ready %}`."""
    try:
        Requirement(migration_identifier, db_aliases.split(), skip_in_tests=skip_in_tests).check("A template")
    except RequiredMigrationNotApplied:
        return False
    return True
