import pytest
from django.db.migrations.recorder import MigrationRecorder

from massmigration import api
from massmigration.definitions.stages import StageContext
from massmigration.loader import store
from massmigration_schema.change import SchemaChange
from testsupport.shop import TABLES, Shop
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE


@pytest.fixture
def shop(server_alias):
    """The tables of the shop, without rows, on each server in turn."""
    made = Shop(server_alias)
    made.drop()
    made.migrate(*TABLES)
    yield made
    made.drop()


@pytest.fixture
def start(shop, django_db_blocker):
    """A function that launches a change of the shop, and waits until it ends or waits for an operator."""
    registered = []

    def launch(*operations, **options):
        migration = shop.migration(*operations, **{"direct_up_to": 0, **options})
        change = SchemaChange(ShopFile(migration, shop.state.clone()))
        scope = store.registered(change)
        scope.__enter__()
        registered.append(scope)
        api.launch(change.key, shop.db_alias)
        return change, wait(change)

    def wait(change):
        return api.wait(change.key, shop.db_alias, timeout=PATIENCE)

    launch.wait = wait
    launch.context = lambda change: StageContext(key=change.key, db_alias=shop.db_alias, attempt_id="", stage=0)
    yield launch
    for scope in registered:
        scope.__exit__(None, None, None)
    MigrationRecorder(shop.connection).record_unapplied("shop", "0002_change")
