"""The pages: list, run, detail, failures and history."""

from massmigration.views.actions import forget, perform
from massmigration.views.detail import detail, status
from massmigration.views.failures import failures
from massmigration.views.history import history
from massmigration.views.list import manage
from massmigration.views.pace import everything, pace
from massmigration.views.run import run

__all__ = ["detail", "everything", "failures", "forget", "history", "manage", "pace", "perform", "run", "status"]
