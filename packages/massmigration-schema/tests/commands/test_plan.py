import json

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from testsupport.shop import executed

FILE = """
from django.db import migrations, models
from massmigration_schema import Online, OnlineMigration


class Migration(OnlineMigration):
    dependencies = [("testapp", "{last}")]
    online = Online()
    operations = [{operations}]
"""
LIKES = 'migrations.AddField("item", "likes", models.IntegerField(default=7))'
SHORTER = 'migrations.AlterField("item", "note", models.CharField(max_length=50, default=""))'
NO_DEFAULT = 'migrations.AddField("item", "likes", models.IntegerField())'


@pytest.fixture
def written(tmp_path, monkeypatch, settings):
    """A function that writes the schema migration 0999_change of the test app, in a copy of its migrations."""
    import shutil
    from pathlib import Path

    from testsupport.testapp import migrations

    original = Path(migrations.__file__).parent
    package = f"written_{tmp_path.name.replace('-', '_')}"
    shutil.copytree(original, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"testapp": package}
    last = max(path.stem for path in original.glob("0*.py"))

    def write(*operations):
        text = FILE.format(last=last, operations=", ".join(operations))
        (tmp_path / package / "0999_change.py").write_text(text)

    return write


def plan(server_alias, capsys, *arguments):
    call_command("onlinemigration", "plan", "testapp", "0999", "--database", server_alias, *arguments)
    return capsys.readouterr().out


def test_the_costs_are_shown(written, server_alias, capsys):
    written(LIKES)

    found = plan(server_alias, capsys)

    assert found.startswith("testapp.0999_change: table testapp_item")
    assert "  Add field likes to item\n    instant: changes the catalog only\n" in found
    assert "`migrate` alters the table, however large it is." in found
    assert "Warning: AddField likes: it is NOT NULL without db_default" in found


def test_a_copy_is_shown(written, server_alias, capsys):
    written(SHORTER)

    found = plan(server_alias, capsys)

    assert "copies: rewrites the table, and blocks its writers meanwhile" in found
    assert "`migrate` refuses to alter a large table." in found


def test_the_plan_is_json(written, server_alias, capsys):
    written(LIKES)

    found = json.loads(plan(server_alias, capsys, "--format", "json"))

    assert found["migration"] == "testapp.0999_change"
    assert found["is_direct"]
    assert [each["cost"] for each in found["operations"]] == ["instant"]
    assert {"name": "likes", "source": "", "expression": "", "literal": "7", "cast": ""} in found["plan"]["columns"]
    assert found["refusals"] == []


def test_refusals_are_shown_and_checked(written, server_alias, capsys):
    written(NO_DEFAULT)

    with pytest.raises(SystemExit) as raised:
        plan(server_alias, capsys, "--check")

    assert raised.value.code == 1
    assert "Refused (online.default): likes is NOT NULL and has no default" in capsys.readouterr().out


def test_a_plan_without_refusals_passes_the_check(written, server_alias, capsys):
    written(LIKES)

    assert "Refused" not in plan(server_alias, capsys, "--check")


def test_no_statement_reads_or_changes_the_table(written, server_alias, capsys):
    written(SHORTER)
    table = connections[server_alias].ops.quote_name("testapp_item")

    with executed(server_alias) as statements:
        plan(server_alias, capsys)

    named = [sql for sql in statements if table in sql]
    assert all(sql.startswith(("CREATE TABLE `_mmc_", "SAVEPOINT")) for sql in named if "mm" in sql)
    assert not [
        sql for sql in named if sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "ALTER", "DROP", "LOCK"))
    ]


def test_an_unknown_migration_is_refused(written, server_alias):
    with pytest.raises(CommandError, match="App 'testapp' has no single schema migration '0777'"):
        call_command("onlinemigration", "plan", "testapp", "0777", "--database", server_alias)


@pytest.mark.django_db
def test_sqlite_is_refused(written):
    written(LIKES)

    with pytest.raises(CommandError, match="Tables on SQLite cannot be changed online"):
        call_command("onlinemigration", "plan", "testapp", "0999")
