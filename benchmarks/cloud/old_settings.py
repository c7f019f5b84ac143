"""The djangae project as django-mass-migration 0.3.9 has it."""

from settings import *  # noqa: F403

ROOT_URLCONF = "djangae.tasks.urls"
MASSMIGRATION_BACKEND = "massmigration.backends.djangae.DjangaeBackend"
