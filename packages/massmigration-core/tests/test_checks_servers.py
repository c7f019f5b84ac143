"""Checks of the settings and the version of a database server, on each of them."""

import pytest
from django.core.checks import ERROR, WARNING, run_checks
from django.core.management import call_command
from django.db import DatabaseError, connections

from massmigration import checks
from massmigration.dialects import engine_transaction
from testsupport.testapp.models import Place


def found(db_alias):
    return [(each.id, each.level) for each in checks.check_servers([db_alias])]


def test_the_servers_of_the_tests_pass(db_alias):
    assert found(db_alias) == []


def test_without_a_database_no_server_is_asked():
    assert list(checks.check_servers(None)) == []


def test_the_check_is_registered(server_alias, monkeypatch):
    connections[server_alias].ensure_connection()  # which sets the level
    monkeypatch.setattr(connections[server_alias], "isolation_level", "serializable", raising=False)

    ids = [each.id for each in run_checks(databases=[server_alias])]

    assert ("massmigration.W012" in ids) == (server_alias != "postgresql")


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_a_version_without_values_row_is_slow_and_said_to_be(server_alias, monkeypatch):
    monkeypatch.setattr(connections[server_alias], "mysql_version", (8, 0, 18))

    (message,) = checks.check_servers([server_alias])

    assert (message.id, message.level) == ("massmigration.W012", WARNING)
    assert message.msg.startswith(f"Database {server_alias!r}: MySQL 8.0.18 writes the objects of a batch with CASE")
    assert "Upgrade to MySQL 8.0.19 or newer" in message.hint


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_the_engine_of_mysql_connector_python_is_a_warning(server_alias, monkeypatch):
    monkeypatch.setattr(type(connections[server_alias]), "__module__", "mysql.connector.django.base")

    (message,) = checks.check_servers([server_alias])

    assert (message.id, message.level) == ("massmigration.W012", WARNING)
    assert "mysql-connector-python is not supported" in message.msg


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize("level", ["repeatable read", None])
def test_an_isolation_level_at_which_commits_are_not_seen_is_a_warning(server_alias, monkeypatch, level):
    connections[server_alias].ensure_connection()
    monkeypatch.setattr(connections[server_alias], "isolation_level", level)

    (message,) = checks.check_servers([server_alias])

    assert (message.id, message.level) == ("massmigration.W012", WARNING)
    assert f"isolation_level is {level!r}" in message.msg


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)  # that of MariaDB has no binary log here
def test_a_binary_log_of_statements_is_an_error_because_it_refuses_every_batch(server_alias):
    with connections[server_alias].cursor() as cursor:
        cursor.execute("SET SESSION binlog_format = 'STATEMENT'")

    (message,) = checks.check_servers([server_alias])
    with pytest.raises(DatabaseError, match="1665"), engine_transaction(server_alias):
        Place.objects.using(server_alias).create(name="a")
    connections[server_alias].close()

    assert (message.id, message.level) == ("massmigration.E013", ERROR)
    assert "binlog_format is STATEMENT" in message.msg


def test_the_command_runs_the_check(server_alias, capsys):
    call_command("check", databases=[server_alias])

    assert "no issues" in capsys.readouterr().out
