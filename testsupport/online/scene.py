"""The tables of the load test with their rows, and the change that is made of one of them."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

from testsupport.shop import TABLES, Shop

KEY = "shop:0002_change.schema"
NAME = "0002_change.schema"

STEP = 10
"""The distance of two keys at the beginning. Writers insert rows between them."""

PARENTS = 100
"""One row in so many has children. Such rows are updated only."""

LOADED_TABLES = [
    *TABLES,
    migrations.CreateModel(
        "Tag",
        [
            ("id", models.AutoField(primary_key=True)),
            ("campaign", models.ForeignKey("shop.Campaign", models.CASCADE)),
        ],
    ),
]

OPERATIONS = (
    'migrations.RenameField("campaign", "goal", "goal_spend"), '
    'migrations.RemoveField("campaign", "description"), '
    'migrations.AddField("campaign", "like_count", models.IntegerField(default=7)), '
    'migrations.AlterField("campaign", "budget", models.DecimalField(max_digits=14, decimal_places=3)), '
    # Rows may not fit, so the triggers have to log them.
    'migrations.AlterField("campaign", "post", models.CharField(max_length=100, null=True)), '
    'migrations.AddIndex("campaign", models.Index(fields=["budget"], name="campaign_budget"))'
)

NUMBERS = {
    "postgresql": "(SELECT g AS k FROM generate_series(1, {0}) g)",
    "mariadb": "(SELECT seq AS k FROM seq_1_to_{0})",
    "mysql": "(WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {0}) "
    "SELECT /*+ SET_VAR(cte_max_recursion_depth = {0}) */ k FROM n)",
}

MADE_BY_TESTS = {
    "load_transaction": "writer integer NOT NULL, number integer NOT NULL, PRIMARY KEY (writer, number)",
    "load_batch": "low bigint NOT NULL, high bigint NOT NULL, row_count bigint NOT NULL",
}
"""Tables beside the shop's: the transactions that writers have committed, and the batches that copied rows."""


class LoadedShop(Shop):
    """The shop with a second child table, and many rows."""

    def make(self, rows: int) -> None:
        """Create the tables, with rows whose keys are the multiples of `STEP`."""
        self.drop()
        self.migrate(*LOADED_TABLES)
        for name, columns in MADE_BY_TESTS.items():
            self.execute(f"CREATE TABLE {name} ({columns})")
        self.execute(
            "INSERT INTO campaign (id, name, objective, description, budget, goal, post, data) "
            f"SELECT {STEP} * k, CONCAT('name ', k), CONCAT('objective ', k % 50), 'description', k % 10000, "
            "CASE WHEN k % 3 = 0 THEN NULL ELSE k % 777 END, CONCAT('post ', k), '{}' "
            f"FROM {NUMBERS[self.db_alias].format(rows)} x"
        )
        for table, columns, values in [("note", "campaign_id, text", "id, 'note'"), ("tag", "campaign_id", "id")]:
            self.execute(
                f"INSERT INTO shop_{table} ({columns}) SELECT {values} FROM campaign WHERE id % {STEP * PARENTS} = 0"
            )
        top = rows * STEP + 1000
        self.execute(
            f"SELECT setval(pg_get_serial_sequence('campaign', 'id'), {top})"
            if self.is_postgresql
            else f"ALTER TABLE campaign AUTO_INCREMENT = {top}"
        )
        for table in ("campaign", "shop_note", "shop_tag"):
            self.execute(f"ANALYZE {'' if self.is_postgresql else 'TABLE'} {table}")

    def drop(self) -> None:
        if self.is_postgresql:
            self.execute("DROP TABLE IF EXISTS shop_tag CASCADE")
        super().drop()
        for name in MADE_BY_TESTS:
            self.execute(f"DROP TABLE IF EXISTS {name}")


def initial(key: int) -> tuple[Any, ...]:
    """Return the name, the budget and the goal of a row at the beginning."""
    number = key // STEP
    return f"name {number}", number % 10000, None if number % 3 == 0 else number % 777


def is_parent(key: int) -> bool:
    return key % (STEP * PARENTS) == 0
