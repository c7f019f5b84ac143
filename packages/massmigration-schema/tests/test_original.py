"""Files of Django Online Migration, with the example of its README."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from massmigration_schema import original
from massmigration_schema.exceptions import Refused
from testsupport.settings import DATABASE_NAME
from testsupport.threads import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

# As the README of Django Online Migration has it, apart from the import line.
EXAMPLE = '''
from massmigration_schema.original import (
    change_table,
    finish_migration,
    restart_copy,
)


# This is only here to show the original table, it is not used
# during the migration
ORIGIN_TABLE_SQL = (
    """
    CREATE TABLE `campaign` (
        `id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY,
        `name` varchar(255) NOT NULL,
        `objective` varchar(255) NOT NULL,
        `description` varchar(255) NOT NULL,
        `budget` numeric(12, 2) NOT NULL,
        `goal_value` numeric(12, 2),
        `post_id` varchar(128),
        `start_date` datetime,
        `end_date` datetime
    )
    """
)


DEST_TABLE_SQL = (
    """
    CREATE TABLE `campaign` (
        `id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY,
        `display_name` varchar(255) NOT NULL,
        `objective` varchar(255) NOT NULL,
        `budget` numeric(12, 2) NOT NULL,
        `goal_spend` numeric(12, 2),
        `post_id` varchar(128),
        `start_date` datetime,
        `end_date` datetime,
        `created_time` datetime,
        `like_count` int
    )
    """
)


DEST_INDEXES = [
    "CREATE INDEX `campaign_87a49a9a` ON `campaign` (`post_id`)",
    "CREATE INDEX `campaign_87a49a9z` ON `campaign` (`objective`, `start_date`)",
]


ORIGIN_COLUMNS = [
    "id",
    "name",
    "objective",
    "description",
    "budget",
    "goal_value",
    "post_id",
    "start_date",
    "end_date",
]


DEST_COLUMNS = [
    "id",
    "display_name",
    "objective",
    "budget",
    "goal_spend",
    "post_id",
    "start_date",
    "end_date",
    "created_time",
    "like_count",
]

RENAMES = {
    "name": "display_name",
    "goal_value": "goal_spend",
}

def run(**kwargs):
    "run the migration"
    kwargs['renames'] = RENAMES
    change_table("default", "campaign", DEST_TABLE_SQL, DEST_INDEXES, ORIGIN_COLUMNS, DEST_COLUMNS, **kwargs)


def restart(**kwargs):
    "restart the copy"
    kwargs['renames'] = RENAMES
    restart_copy("default", "campaign", ORIGIN_COLUMNS, DEST_COLUMNS, **kwargs)


def rename(**kwargs):
    "rename the migration"
    # pylint: disable=W0613
    finish_migration("default", "campaign")
'''
VALUES = dict(re.findall(r"^(\w+_SQL) = \(\n    \"\"\"(.*?)\"\"\"", EXAMPLE, re.MULTILINE | re.DOTALL))
ON_MYSQL = pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)


class Project:
    """A project whose database `default` is the server's, with the example in an app; commands are processes."""

    def __init__(self, shop, folder):
        self.shop, self.folder = shop, folder
        (folder / "campaigns" / "online_migrations").mkdir(parents=True)
        for path in ("campaigns/__init__.py", "campaigns/online_migrations/__init__.py"):
            (folder / path).touch()
        (folder / "campaigns" / "online_migrations" / "0001_campaign.py").write_text(EXAMPLE)
        (folder / "project_settings.py").write_text(
            textwrap.dedent(f"""
                from testsupport.settings import *

                DATABASES = {{"default": {{**DATABASES[{shop.db_alias!r}], "NAME": {DATABASE_NAME!r}}}}}
                INSTALLED_APPS = [*INSTALLED_APPS, "campaigns"]
            """)
        )

    def call(self, *arguments):
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project_settings", "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def succeed(self, *arguments):
        done = self.call(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fill(self, count):
        for number in range(1, count + 1):
            self.shop.execute(
                "INSERT INTO campaign (name, objective, description, budget, goal_value, post_id, start_date) "
                "VALUES (%s, 'o', 'd', 3.5, %s, %s, '2020-02-03 04:05:06')",
                [f"name {number}", number, None if number % 2 else f"p{number}"],
            )


@pytest.fixture
def project(shop, tmp_path):
    """A project with an empty table `campaign`, as the example's."""
    names = ("campaign", "migrate_campaign", "archive_campaign", "shop_note")
    quote = shop.connection.ops.quote_name

    def drop():
        for name in names:
            shop.execute(f"DROP TABLE IF EXISTS {quote(name)}" + (" CASCADE" if shop.is_postgresql else ""))

    shop.execute("DROP TABLE shop_note")
    drop()
    sql = VALUES["ORIGIN_TABLE_SQL"]
    if shop.is_postgresql:
        sql = for_postgresql(sql)
    shop.execute(sql)
    yield Project(shop, tmp_path)
    drop()


def for_postgresql(sql):
    sql = sql.replace("integer AUTO_INCREMENT NOT NULL", "integer GENERATED BY DEFAULT AS IDENTITY")
    return sql.replace("`", '"').replace("datetime", "timestamp")


def tables(shop):
    return {table.name for table in shop.connection.introspection.get_table_list(shop.connection.cursor())}


def triggers(shop):
    found = shop.execute("SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()")
    return {name for (name,) in found}


@ON_MYSQL
def test_the_example_of_the_readme_runs_after_a_change_of_its_import_line(shop, project):
    project.fill(30)

    project.succeed("online_migration", "campaigns", "run", "0001_campaign")

    assert "migrate_campaign" in tables(shop)
    assert triggers(shop) == {f"migration_trigger_{verb}_campaign" for verb in ("insert", "update", "delete")}
    shop.execute("UPDATE campaign SET name = 'later', goal_value = 99 WHERE id = 3")
    shop.execute("DELETE FROM campaign WHERE id = 4")
    project.succeed("online_migration", "campaigns", "restart", "0001_campaign")
    project.succeed("online_migration", "campaigns", "rename", "0001_campaign")
    found = shop.execute("SELECT id, display_name, goal_spend, post_id, like_count FROM campaign ORDER BY id")
    assert len(found) == 29
    assert found[0] == (1, "name 1", 1, None, None)
    assert found[2] == (3, "later", 99, None, None)
    assert list(shop.definition().columns)[-2:] == ["created_time", "like_count"]
    assert {"campaign_87a49a9a", "campaign_87a49a9z"} <= set(shop.definition().indexes)
    assert "archive_campaign" in tables(shop)
    assert shop.execute("SELECT COUNT(*) FROM archive_campaign") == [(29,)]
    assert triggers(shop) == set()
    shop.execute("INSERT INTO campaign (display_name, objective, budget) VALUES ('n', 'o', 1)")
    assert shop.execute("SELECT MAX(id) FROM campaign") == [(31,)]


@ON_MYSQL
def test_a_range_of_keys_is_copied_and_the_rest_later(shop, project):
    project.fill(12)

    project.succeed("online_migration", "campaigns", "run", "0001_campaign", "--start", "2", "--limit", "5")

    assert shop.execute("SELECT id FROM migrate_campaign ORDER BY id") == [(3,), (4,), (5,)]
    project.succeed("online_migration", "campaigns", "restart", "0001_campaign", "--start", "8", "--limit", "9")
    assert shop.execute("SELECT id FROM migrate_campaign ORDER BY id") == [(3,), (4,), (5,), (9,)]
    refused = project.call("online_migration", "campaigns", "rename", "0001_campaign")
    assert refused.returncode != 0
    project.succeed("online_migration", "campaigns", "restart", "0001_campaign")
    assert shop.execute("SELECT COUNT(*) FROM migrate_campaign") == [(12,)]
    unknown = project.call("online_migration", "campaigns", "run", "nothing")
    assert "App 'campaigns' has no single online migration 'nothing'" in unknown.stderr
    project.succeed("onlinemigration", "abort", "massmigration_schema", "migrate_campaign", "--no-input")
    assert tables(shop) & {"migrate_campaign", "archive_campaign"} == set()
    assert triggers(shop) == set()


@ON_MYSQL
def test_a_table_of_the_name_of_the_new_one_is_not_touched(shop, project):
    project.fill(2)
    shop.execute("CREATE TABLE migrate_campaign (id int PRIMARY KEY, mine int)")

    refused = project.call("online_migration", "campaigns", "run", "0001_campaign")

    assert "online.name_taken: migrate_campaign exists already" in refused.stderr
    assert list(shop.definition("migrate_campaign").columns) == ["id", "mine"]


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_the_functions_work_on_postgresql(shop, project):
    shop.execute("INSERT INTO campaign (name, objective, description, budget) VALUES ('a', 'o', 'd', 1)")
    example = {}
    exec(EXAMPLE, example)  # its own code

    columns = example["ORIGIN_COLUMNS"], example["DEST_COLUMNS"]

    def change():
        original.change_table(
            shop.db_alias,
            "campaign",
            for_postgresql(example["DEST_TABLE_SQL"]),
            [sql.replace("`", '"') for sql in example["DEST_INDEXES"]],
            *columns,
            renames=example["RENAMES"],
            chunk_size=10,
            throttle=0.0,
        )

    change()
    with pytest.raises(Refused, match="began with the columns") as raised:
        original.restart_copy(shop.db_alias, "campaign", *columns)
    assert raised.value.code == "online.columns"
    original.finish_migration(shop.db_alias, "campaign")
    with pytest.raises(Refused, match="was changed in this way at") as raised:
        change()
    assert raised.value.code == "online.swapped"

    assert shop.execute("SELECT id, display_name, like_count FROM campaign") == [(1, "a", None)]


@pytest.mark.parametrize("function", [original.finish_migration, original.restart_copy])
def test_a_table_without_a_change_cannot_be_finished(shop, function):
    columns = () if function is original.finish_migration else (["id"], ["id"])

    with pytest.raises(Refused, match="has no change that change_table") as raised:
        function(shop.db_alias, "campaign", *columns)

    assert raised.value.code == "online.not_started"
