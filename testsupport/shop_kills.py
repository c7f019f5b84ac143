"""Deaths of a process, or of its server, after a statement of a step of an online change of the shop."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections, migrations, models, transaction
from django.db.migrations.recorder import MigrationRecorder

from massmigration.definitions.stages import StageContext
from massmigration.exceptions import ActionRefused, NotNow
from massmigration_schema import ledger
from massmigration_schema.change import SchemaChange
from testsupport.shop import TABLES, Change, Shop
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE

UNIQUE = migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))
ABOUT = migrations.RenameField("campaign", "description", "about")
OPERATIONS = [UNIQUE, ABOUT]
READS = re.compile(r"\s*(SELECT|SHOW|SET)\b(?!.*(GET_LOCK|setval))", re.IGNORECASE | re.DOTALL)


class Killed(BaseException):
    """The process is dead: it executes nothing any more, not even what undoes things."""


@contextlib.contextmanager
def killed_after(
    db_alias: str, count: int, pattern: str = "", die: Callable[[], None] = lambda: None
) -> Iterator[list[str]]:
    """Die after so many statements that change something. Yield a list that is empty if there were fewer.

    `pattern`: what these statements contain. `die`: called then.
    """
    seen: list[str] = []
    deaths: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if deaths:
            raise Killed
        answer = execute(sql, params, many, context)
        if not READS.match(sql) and re.search(pattern, sql):
            seen.append(sql)
            if len(seen) == count:
                deaths.append(sql)
                die()
                raise Killed
        return answer

    connection = connections[db_alias]
    try:
        with connection.execute_wrapper(wrapper):
            yield deaths
    except Killed:
        pass
    finally:
        if deaths:
            connection.close()


def persistently(call: Callable[[], Any]) -> Any:
    """Call something until the server has noticed that the dead process has lost its locks."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (NotNow, ActionRefused):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


class Making:
    """A change of a shop with rows and children, whose steps a test calls."""

    def __init__(self, shop: Shop, **options: Any) -> None:
        self.shop = shop
        shop.drop()
        shop.state = type(shop.state)()
        shop.migrate(*TABLES)
        MigrationRecorder(shop.connection).ensure_schema()
        shop.fill(3)
        for campaign in shop.objects().all():
            shop.objects("Note").create(campaign_id=campaign.pk, text="n")
        self.before = shop.definition(), shop.definition("shop_note")
        self.change = SchemaChange(ShopFile(shop.migration(*OPERATIONS, **options), shop.state.clone()))
        self.context = StageContext(key=self.change.key, db_alias=shop.db_alias, attempt_id="", stage=0)
        self.direct = Change(shop, *OPERATIONS)

    def prepare(self) -> None:
        """Make the tables and triggers."""
        self.change._prepare(self.shop.db_alias, self.context)

    def copy(self) -> None:
        """Copy the rows."""
        self.direct.copy()

    def make_ready(self) -> None:
        """Prepare the new table for its use."""
        self.change._make_ready(self.shop.db_alias, self.context)

    def cut_over(self) -> None:
        """Swap the tables."""
        self.change._cut_over(self.shop.db_alias, self.context)

    def revert(self) -> None:
        """Swap them back."""
        self.change.revert(self.shop.db_alias, "code:test")

    def clean_up(self) -> None:
        """Drop what is not used any more."""
        self.change.clean_up(self.shop.db_alias, "code:test")

    def abort(self) -> None:
        """Drop everything before the swap."""
        self.change.abort(self.shop.db_alias, "code:test")

    def write(self) -> None:
        """Write what the application writes, whichever definition the table has: a row, and a child of a parent."""
        names = self.shop.definition().columns
        column = "about" if "about" in names else "description"
        with transaction.atomic(self.shop.db_alias):
            self.shop.execute(f"UPDATE campaign SET {column} = 'written' WHERE name = 'name 1'")
            self.shop.execute(
                "INSERT INTO shop_note (campaign_id, text) SELECT id, 'w' FROM campaign WHERE name = 'name 2'"
            )

    def forget(self) -> None:
        """Forget the change."""
        ledger.forget(self.shop.db_alias, self.change.key)
        MigrationRecorder(self.shop.connection).record_unapplied("shop", "0002_change")


def kinds(listed: Any) -> list[str]:
    """Return the differences as texts."""
    return [f"{each.code} {each.name}" for each in listed]


def trials(
    shop: Shop,
    dying: str,
    *,
    before: list[str],
    after: list[str],
    check: Callable[[Making], list[str]],
    pattern: str = "",
    die: Callable[[], None] = lambda: None,
    at_most: int = 1000,
    **options: Any,
) -> tuple[int, dict[str, Any]]:
    """Die after each statement of a step in turn. Return how often, and what was wrong afterwards, by statement."""
    found: dict[str, Any] = {}
    for count in range(1, at_most + 1):
        making = Making(shop, **options)
        for name in before:
            getattr(making, name)()
        with killed_after(shop.db_alias, count, pattern, die) as deaths:
            getattr(making, dying)()
        making.write()
        for name in after:
            persistently(getattr(making, name))
        problem = check(making)
        if problem:
            found[deaths[0] if deaths else "nothing"] = problem
        making.forget()
        if not deaths:
            return count - 1, found
    return at_most, found
