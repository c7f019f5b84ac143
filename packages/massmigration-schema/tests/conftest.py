import pytest

from testsupport.shop import TABLES, Shop


@pytest.fixture
def shop(server_alias):
    """The tables of the shop, without rows, on each server in turn."""
    made = Shop(server_alias)
    made.drop()
    made.migrate(*TABLES)
    yield made
    made.drop()
