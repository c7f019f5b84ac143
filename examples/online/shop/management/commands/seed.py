"""The command that makes the orders."""

from django.core.management.base import BaseCommand
from django.db import connection

ROWS = 200_000


class Command(BaseCommand):
    help = f"Makes {ROWS} orders, every hundredth with a line."

    def handle(self, *args, **options):
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO shop_order (reference, amount) SELECT 'order ' || g, g %% 1000 "
                "FROM generate_series(1, %s) g",
                [ROWS],
            )
            cursor.execute(
                "INSERT INTO shop_line (order_id, text) SELECT id, 'a line' FROM shop_order WHERE id % 100 = 0"
            )
            cursor.execute("ANALYZE shop_order, shop_line")
        self.stdout.write(f"Made {ROWS} orders.")
