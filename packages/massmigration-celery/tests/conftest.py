import pytest


@pytest.fixture(params=["redis-prefork", "redis-threads", "rabbitmq-prefork"])
def broker(request):
    """A broker's address, a pool, and whether results are kept, so that shards are a chord."""
    name, _, pool = request.param.partition("-")
    url = request.getfixturevalue(f"{name}_url")
    return url, pool, url if name == "redis" else None
