import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from massmigration.exceptions import RecordsUnreadable
from massmigration.recorder import tables
from testsupport.v03_versions import other_database


def test_one_statement_finds_out_that_the_tables_exist(db_alias):
    with CaptureQueriesContext(connections[db_alias]) as queries:
        tables.require(db_alias)

    assert len(queries) == 1


def test_tables_that_are_created_meanwhile_are_found(db_alias):
    with other_database(db_alias):
        assert not tables.exist(db_alias)

    assert tables.exist(db_alias)


def test_a_transaction_outlives_the_question(db_alias):
    with other_database(db_alias), transaction.atomic(using=db_alias):
        with pytest.raises(RecordsUnreadable, match="has no tables for mass migrations"):
            tables.require(db_alias)

        with connections[db_alias].cursor() as cursor:
            cursor.execute("SELECT 1")

        assert not connections[db_alias].needs_rollback
