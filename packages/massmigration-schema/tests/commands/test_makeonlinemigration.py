import pytest
from django.core.management import CommandError, call_command

from testsupport.shop_app import installed

LIKES = 'migrations.AddField("campaign", "likes", models.IntegerField(default=7))'
NOTHING = 'migrations.RunSQL("SELECT 1")'
PLAIN = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [{operations}]
"""


@pytest.fixture
def make(shop, tmp_path, capsys, operations):
    """A function that runs `makeonlinemigration`, and returns its output."""

    def run(*arguments, name="0002"):
        call_command("makeonlinemigration", "shop", name, "--database", shop.db_alias, *arguments, verbosity=0)
        return capsys.readouterr().out

    with installed(shop, tmp_path, operations):
        run.path = tmp_path / "shop" / "migrations" / "0002_change.py"
        run.path.write_text(PLAIN.format(operations=operations))
        yield run


@pytest.mark.parametrize("operations", [LIKES])
def test_the_file_is_changed(shop, make):
    shown = make("--dry-run")
    assert "class Migration(migrations.Migration):" in make.path.read_text()

    said = make()

    assert make.path.read_text().strip() == shown.strip()
    assert "class Migration(OnlineMigration):" in make.path.read_text()
    assert "Next: manage.py onlinemigration plan shop 0002_change" in said


@pytest.mark.parametrize("operations", [NOTHING])
def test_a_file_that_cannot_be_made_online_is_not_changed(shop, make):
    before = make.path.read_bytes()

    with pytest.raises(CommandError, match=r"(?s)shop\.0002_change was not changed.*online\.operation"):
        make()

    assert make.path.read_bytes() == before


@pytest.mark.parametrize("operations", [LIKES])
def test_an_unknown_migration_is_refused(shop, make):
    with pytest.raises(CommandError, match="no single schema migration '0009'"):
        make(name="0009")
