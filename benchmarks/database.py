"""Makes the benchmark's own database."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.management import call_command


def create(**options: bool) -> None:
    """Make it if it is not there, and the tables in it."""
    given = settings.DATABASES["default"]
    if os.environ["BENCH_DATABASE"] == "postgresql":
        import psycopg

        with psycopg.connect(os.environ["TEST_POSTGRES_URL"], autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [given["NAME"]]).fetchone():
                connection.execute(f"CREATE DATABASE {given['NAME']}")
    elif os.environ["BENCH_DATABASE"] == "mariadb":
        import MySQLdb

        login = {"host": given["HOST"], "user": given["USER"], "password": given["PASSWORD"], "port": given["PORT"]}
        connection = MySQLdb.connect(**login)
        connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS {given['NAME']}")
        connection.close()
    call_command("migrate", verbosity=0, **options)
