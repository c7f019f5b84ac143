"""Every kind of stage, from the file to the end of a run."""

import dataclasses
import inspect

import pytest
from django.db.models import F

from massmigration import migrations
from massmigration.definitions.stages import Stage
from massmigration.definitions.validation import validate_methods
from massmigration.dryrun import dry_run
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import BaseMigration
from massmigration.states import Status
from massmigration.testing import run_migration
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"


class Migration(BaseMigration):
    """A migration with one stage."""

    kind = ""

    def get_stages(self):
        return [MADE[self.kind](self)]

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def by_object(self, obj, db_alias):
        Item.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)

    def by_call(self, db_alias):
        Item.objects.using(db_alias).update(n=F("n") + 1)

    def wrong(self):
        pass


MADE = {
    "MappedStage": lambda migration: migration.mapped(
        get_queryset=migration.get_queryset, operation=migration.by_object, remaining=lambda db_alias: 0
    ),
    "OnceStage": lambda migration: migration.once(migration.by_call),
    "WaitStage": lambda migration: migration.wait("Are the items good?"),
}
"""A stage of each kind. All but one that waits increment `n` of every item."""

WAITING = {"WaitStage"}
KINDS = pytest.mark.parametrize("kind", MADE)
FUNCTIONS = [
    (cls.__name__, field.name)
    for cls in Stage.__subclasses__()
    for field in dataclasses.fields(cls)
    if str(field.type).startswith("Callable")
]


def migration_of(monkeypatch, kind, **attributes):
    cls = type("Migration", (Migration,), {"kind": kind, **attributes})
    register(monkeypatch, cls)
    return cls("testapp", "9000_adhoc")


def test_every_kind_of_stage_is_tried_here():
    assert MADE.keys() == {cls.__name__ for cls in Stage.__subclasses__()}


@KINDS
def test_a_kind_of_stage_is_public_and_has_a_method_that_makes_it(kind):
    methods = [value for value in vars(BaseMigration).values() if inspect.isfunction(value)]

    assert kind in migrations.__all__
    assert [each.__name__ for each in methods if each.__annotations__.get("return") == kind] != []


@KINDS
@pytest.mark.parametrize("atomic", [True, False])
def test_a_stage_of_each_kind_is_run_to_its_end(db_alias, monkeypatch, kind, atomic):
    Item.objects.using(db_alias).bulk_create([Item(), Item()])
    migration_of(monkeypatch, kind, atomic=atomic)

    record = run_migration(KEY, db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert set(Item.objects.using(db_alias).values_list("n", flat=True)) == {0 if kind in WAITING else 1}


@only_sqlite
def test_what_is_done_once_is_not_called_again_when_it_raises(db_alias, monkeypatch):
    calls = []

    def fail(db_alias):
        calls.append(db_alias)
        raise ValueError("It cannot be done.")

    migration_of(monkeypatch, "OnceStage", get_stages=lambda self: [self.once(fail)])

    record = run_migration(KEY, db_alias)

    assert (record.status, calls) == (Status.FAILED, [db_alias])


@KINDS
@only_sqlite
def test_a_dry_run_tries_a_stage_of_each_kind_unless_it_waits(db_alias, monkeypatch, kind):
    Item.objects.using(db_alias).create()
    migration_of(monkeypatch, kind, get_stages=lambda self: [MADE[kind](self), self.once(self.by_call)])

    found = dry_run(KEY, db_alias)

    assert [each.error for each in found.objects] == [""]
    assert Item.objects.using(db_alias).get().n == 0


@pytest.mark.parametrize(("kind", "name"), FUNCTIONS)
def test_a_function_that_cannot_be_called_is_refused(monkeypatch, kind, name):
    def get_stages(self):
        return [dataclasses.replace(MADE[kind](self), **{name: self.wrong})]

    migration = migration_of(monkeypatch, kind, get_stages=get_stages)

    with pytest.raises(BadMigrationFile, match=rf"^{name}\(\) of migration '{KEY}' is called with .*but takes \(\)"):
        validate_methods(migration)


@pytest.mark.parametrize("returned", [None, [None], [print], "stages"], ids=repr)
def test_anything_but_stages_is_refused(monkeypatch, returned):
    migration = migration_of(monkeypatch, "OnceStage", get_stages=lambda self: returned)

    with pytest.raises(BadMigrationFile, match=r"it must return a list of stages\. Create them with self\.once\(\)"):
        validate_methods(migration)
