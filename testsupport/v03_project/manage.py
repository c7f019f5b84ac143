"""A project as it was written for django-mass-migration 0.3.x; runs with that, and unchanged with massmigration."""

import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
