"""The command that writes orders until it is stopped, as an application does."""

import json
import random
import signal
from pathlib import Path

from django.core.management.base import BaseCommand
from django.db import transaction

from shop.management.commands.seed import ROWS
from shop.models import Line, Order


class Command(BaseCommand):
    help = "Writes orders until Ctrl-C or SIGTERM, then writes into a file what it has committed."

    def add_arguments(self, parser):
        parser.add_argument("journal", type=Path)

    def handle(self, *args, journal, **options):
        self.is_stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.amounts = {}
        self.stdout.write("Writing.")
        self.stdout.flush()
        while not self.is_stopped:
            with transaction.atomic():
                done = self._write()
            self.amounts.update(done)
        journal.write_text(json.dumps(self.amounts))

    def _stop(self, *args):
        self.is_stopped = True

    def _write(self):
        """Insert, update or delete an order. Return its amount by its key, None if it was deleted."""
        kind, amount = random.choice(["insert", "update", "update", "delete"]), random.randrange(1000)
        if kind == "insert":
            order = Order.objects.create(reference="new", amount=amount)
            Line.objects.create(order=order, text="a new line")
            return {order.pk: amount}
        key = random.randrange(1, ROWS + 1)
        if kind == "update":
            return {key: amount} if Order.objects.filter(pk=key).update(amount=amount) else {}
        return {key: None} if Order.objects.filter(pk=key).delete()[0] else {}
