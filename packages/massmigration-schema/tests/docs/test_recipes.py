"""The migrations of the recipes for large tables, each made online on a table with rows and children."""

import dataclasses
import re
from pathlib import Path

import pytest
from django.db.migrations.recorder import MigrationRecorder
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser

from massmigration import api
from massmigration.loader import store
from massmigration.states import Status
from massmigration_schema.change import SchemaChange
from massmigration_schema.exceptions import RefusedForReasons
from massmigration_schema.migration import OnlineMigration
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs/howto/common-table-changes.md"
SECTIONS = {"postgresql": "On MariaDB and MySQL", "mariadb": "On PostgreSQL", "mysql": "On PostgreSQL"}
"""The sections that are not for a database."""

pytestmark = pytest.mark.slow


def blocks(db_alias):
    """Return the Python blocks of the page that are for a database."""
    lines, left_out = PAGE.read_text().splitlines(), SECTIONS[db_alias]
    found = Sybil([CodeBlockParser("python", lambda example: None)], path=str(ROOT)).parse(PAGE).examples()
    return [str(example.parsed) for example in found if _title(lines[: example.line]) != left_out]


def _title(lines):
    return next(line for line in reversed(lines) if re.match("#+ ", line)).lstrip("# ")


@pytest.fixture(autouse=True)
def nothing_is_recorded(shop):
    """Forget the schema migrations that a test has recorded as applied."""
    yield
    MigrationRecorder.Migration.objects.using(shop.db_alias).filter(app="shop").delete()


def change_online(shop, migration):
    """Make a change from its start to its cleanup, with rows that are written meanwhile."""
    change = SchemaChange(ShopFile(migration, shop.state.clone()))
    with store.registered(change):
        api.launch(change.key, shop.db_alias)
        waiting = api.wait(change.key, shop.db_alias, timeout=PATIENCE)
        assert waiting.status is Status.WAITING, (migration, waiting)
        shop.execute("UPDATE campaign SET name = CONCAT(name, '+')")
        api.proceed(change.key, shop.db_alias)
        assert api.wait(change.key, shop.db_alias, timeout=PATIENCE).status is Status.APPLIED
        change.clean_up(shop.db_alias, "code:test")
    shop.declare(*migration.operations)


def test_every_recipe_can_be_followed(shop):
    shop.fill(20)
    shop.execute("INSERT INTO shop_note (campaign_id, text) SELECT id, 'note' FROM campaign")
    shop.execute("UPDATE campaign SET starts_at = '2026-01-01 00:00:00'")
    namespace, online = {}, 0
    for number, block in enumerate(blocks(shop.db_alias)):
        namespace.pop("Migration", None)
        exec(block, namespace)
        migration = namespace["Migration"](f"{number:04}_recipe", "shop")
        if not isinstance(migration, OnlineMigration):
            shop.migrate(*migration.operations)
            continue
        migration.online = dataclasses.replace(migration.online, direct_up_to=0, strategy="shadow")
        online += 1
        if online == 1 and not shop.is_postgresql:
            # The page says why, and how to continue.
            with pytest.raises(RefusedForReasons, match="refer to it"):
                change_online(shop, migration)
            continue
        change_online(shop, migration)

    assert online >= 5
    found = shop.definition()
    assert "bigint" in found.columns["id"].type
    assert not found.columns["starts_at"].is_nullable or not shop.is_postgresql
    assert "description" not in found.columns
    assert len(found.incoming) == 1
    assert shop.execute("SELECT COUNT(*) FROM shop_note n JOIN campaign c ON c.id = n.campaign_id") == [(20,)]
    assert shop.catalog.orphans() == []
