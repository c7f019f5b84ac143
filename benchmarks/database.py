"""The benchmark's database."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.management import call_command

from testsupport.database_servers import DATABASE_SERVERS


def create(**options: bool) -> None:
    """Create the database if it does not exist, and its tables."""
    server = DATABASE_SERVERS.get(os.environ["BENCH_DATABASE"])
    if server:
        with server.cursor() as cursor:
            server.create_database(cursor, settings.DATABASES["default"]["NAME"])
    call_command("migrate", verbosity=0, **options)
