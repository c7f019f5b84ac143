"""The ledger: one row for each online change, in the database of its table."""

from __future__ import annotations

from django.db import models


class OnlineChange(models.Model):
    """The state of an online change of a table."""

    key = models.CharField(max_length=255, primary_key=True, help_text="The key of the migration's record.")
    table = models.CharField(max_length=128)
    active_table = models.CharField(
        max_length=128, null=True, unique=True, help_text="The table until the swap: it has one change at a time."
    )
    tag = models.CharField(max_length=6, help_text="Stands for the change in the names of tables and triggers.")
    plan = models.JSONField(help_text="What every worker does: columns, values and keys.")
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the plan.")
    steps = models.JSONField(default=dict, help_text="The steps that are done, each with its time.")
    step = models.CharField(max_length=64, blank=True, help_text="The step that was begun last.")
    definition = models.JSONField(default=dict, help_text="The table's definition when the change began.")
    triggers = models.JSONField(default=dict, help_text="The triggers as they were made.")
    server_id = models.CharField(max_length=255, blank=True)
    differences = models.PositiveBigIntegerField(default=0, help_text="Rows that the first verification found.")
    differences_left = models.PositiveBigIntegerField(default=0, help_text="Rows that the second one found.")
    comparison = models.JSONField(default=dict, help_text="How far the comparison is that runs while it waits.")
    started_at = models.DateTimeField()
    verified_at = models.DateTimeField(null=True)
    swapped_at = models.DateTimeField(null=True)
    reverted_at = models.DateTimeField(null=True)
    cleaned_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "massmigration_schema_change"
        verbose_name = "online change"
        ordering = ("key",)

    def __str__(self) -> str:
        return self.key

    @property
    def is_swapped(self) -> bool:
        """Whether the new table is in the place of the old one."""
        return self.swapped_at is not None

    @property
    def has_leftovers(self) -> bool:
        """Whether something that the change has made may be in the database."""
        return self.cleaned_at is None
