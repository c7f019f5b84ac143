import pytest
from django.db import connections

from massmigration.exceptions import DDLInBatch
from massmigration.executor.statements import no_implicit_commit, start_of

MANY = 10_000
"""Of comments, which a regular expression may divide in two ways, two more take it four times as long."""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "COMMIT"),
        (" \n\t", "COMMIT"),
        ("/* one */", "COMMIT"),
        ("/* one *//* two */ ", "COMMIT"),
        ("/*/ one */", "COMMIT"),
        ("/* one\n-- two */\n", "COMMIT"),
        ("/**/", "COMMIT"),
        ("-- one /* two\n", "COMMIT"),
        ("# one\n#two\n -- three\n", "COMMIT"),
        ("/* one", ""),
        ("-- one", ""),
        ("/*/", ""),
        ("", "- - one"),
        ("", "/ * one"),
        ("", ""),
    ],
)
def test_a_statement_begins_after_white_space_and_comments(before, after):
    assert start_of(before + after) == len(before)


@pytest.mark.parametrize("comment", ["/* one */", "-- one\n", "# one\n", "/**/ \n", "   "])
def test_many_comments_are_passed_over_in_one_go(db_alias, comment):
    connection = connections[db_alias]

    with no_implicit_commit(db_alias), connection.cursor() as cursor:
        with pytest.raises(DDLInBatch):
            cursor.execute(f"{comment * MANY}COMMIT{' ' * MANY};{' ' * MANY}")
        if not comment.startswith("#"):  # not a comment on PostgreSQL and SQLite
            cursor.execute(f"{comment * MANY}SELECT 1{' ' * MANY}")


def test_what_begins_like_the_end_of_a_transaction_is_refused_or_not_in_one_go(db_alias):
    connection = connections[db_alias]
    connection.ensure_connection()  # executes statements, too
    reached = []

    with (
        no_implicit_commit(db_alias),
        connection.execute_wrapper(lambda *args: reached.append(args[1])),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"COMMIT{' ' * MANY}x")
        cursor.execute(f"{'/*' * MANY}COMMIT")

    assert len(reached) == 2
