"""Two stages: one mapped, one done once."""

from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.migrations import BaseMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(BaseMigration):
    def get_stages(self):
        return [
            MappedStage(
                name=self.key,
                get_queryset=lambda db_alias: Item.objects.using(db_alias),
                operation_batch=self.count,
            ),
            OnceStage(name=self.key, operation=lambda db_alias: knobs.log_call("two_stages", None, db_alias)),
        ]

    def count(self, queryset, db_alias):
        for pk in queryset.values_list("pk", flat=True):
            knobs.count(db_alias, pk=pk)
        knobs.pause(queryset.count())
