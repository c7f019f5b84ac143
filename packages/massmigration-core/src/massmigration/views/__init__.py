"""The pages: list, run, detail, failures, history."""

from massmigration.views.detail import detail
from massmigration.views.failures import failures
from massmigration.views.giving import forget, give
from massmigration.views.history import history
from massmigration.views.live import status
from massmigration.views.manage import manage
from massmigration.views.run import run

__all__ = ["detail", "failures", "forget", "give", "history", "manage", "run", "status"]
