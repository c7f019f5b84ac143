"""The command that compares all orders with what `write` has committed."""

import json
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from shop.management.commands.seed import ROWS
from shop.models import Order


class Command(BaseCommand):
    help = "Compares all orders with what `write` has committed."

    def add_arguments(self, parser):
        parser.add_argument("journal", type=Path)

    def handle(self, *args, journal, **options):
        expected = {key: key % 1000 for key in range(1, ROWS + 1)}
        written = {int(key): amount for key, amount in json.loads(journal.read_text()).items()}
        expected.update(written)
        alive = {key: amount for key, amount in expected.items() if amount is not None}
        found = dict(Order.objects.values_list("pk", "amount"))
        wrong = [key for key in alive.keys() | found.keys() if alive.get(key) != found.get(key)]
        if wrong:
            raise CommandError(f"{len(wrong)} orders are wrong: {sorted(wrong)[:10]}")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = "
                "'shop_order'::regclass AND attname = 'id'"
            )
            (kind,) = cursor.fetchone()
        self.stdout.write(f"All {len(found)} orders are right, {len(written)} of them written. The key is {kind}.")
