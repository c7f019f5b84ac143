"""The application that gunicorn serves: the test project, with the crashes that MM_TEST_CRASHES names."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from massmigration.loader import store  # noqa: E402
from massmigration.paging import sharding  # noqa: E402
from testsupport.cloudtasks import crashes, shrinking  # noqa: E402

sharding.MIN_SHARD_SIZE = 1
store.by_key[shrinking.KEY] = shrinking.Migration(*shrinking.KEY.split(":"))
crashes.arm()
