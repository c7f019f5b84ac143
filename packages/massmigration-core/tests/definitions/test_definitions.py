import pytest

from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import BaseMigration, MapperMigration, SimpleMigration


def migration(base, **attributes):
    return type("Migration", (base,), attributes)("shop", "0001_slugs")


def method(*arguments):
    return None


MAPPER = {"get_queryset": method, "operation": method}


def test_a_key_is_the_app_and_the_name():
    assert migration(BaseMigration).key == "shop:0001_slugs"


def test_a_description_is_the_classs_own_docstring():
    assert (
        migration(SimpleMigration, __doc__="\n    Fills slugs.\n\n    Slowly.\n").description
        == "Fills slugs.\n\nSlowly."
    )
    assert migration(SimpleMigration).description == ""


def test_a_simple_migration_is_one_stage_done_once():
    (stage,) = migration(SimpleMigration, operation=method, atomic=False).get_stages()

    assert isinstance(stage, OnceStage)
    assert (stage.name, stage.atomic) == ("shop:0001_slugs", False)


def test_a_mapper_is_one_mapped_stage():
    (stage,) = migration(MapperMigration, **MAPPER, update_fields=["slug"], batch_size=7, lock_rows=False).get_stages()

    assert isinstance(stage, MappedStage)
    assert (stage.update_fields, stage.batch_size, stage.lock_rows) == (["slug"], 7, False)
    assert stage.operation is not None
    assert stage.operation_batch is None


def test_a_mapper_may_be_given_whole_batches():
    (stage,) = migration(MapperMigration, get_queryset=method, operation_batch=method).get_stages()

    assert stage.operation is None
    assert stage.operation_batch is not None


@pytest.mark.parametrize(
    ("base", "attributes", "words"),
    [
        (BaseMigration, {}, "defines neither stages nor launch()"),
        (SimpleMigration, {}, "has no operation(self, db_alias) method; add one"),
        (MapperMigration, {"operation": method}, "has no get_queryset(self, db_alias) method; add one"),
        (MapperMigration, {"get_queryset": method}, "has neither operation(self, obj, db_alias) nor operation_batch"),
        (MapperMigration, {**MAPPER, "operation_batch": method}, "has both operation() and operation_batch()"),
        (MapperMigration, {"get_queryset": method, "operation_batch": method, "update_fields": ["a"]}, "does not use"),
        (MapperMigration, {**MAPPER, "update_fields": "slug"}, "update_fields = 'slug'; it must be a list of field"),
        (MapperMigration, {**MAPPER, "update_fields": []}, "update_fields = []; it must be a list of field names"),
        (MapperMigration, {**MAPPER, "batch_size": 0}, "has batch_size = 0; it must be 1 or more, or None"),
    ],
    ids=["base", "simple", "no-queryset", "no-operation", "both", "unused-fields", "text", "no-fields", "batch-size"],
)
def test_a_class_that_cannot_run_says_what_it_lacks(base, attributes, words):
    with pytest.raises(BadMigrationFile) as caught:
        migration(base, **attributes).get_stages()

    assert str(caught.value).startswith("Migration 'shop:0001_slugs' ")
    assert words in str(caught.value)


def test_every_database_is_allowed_unless_some_are_named():
    assert "default" in migration(BaseMigration).get_allowed_db_aliases()
    assert migration(BaseMigration, allowed_db_aliases=("other",)).get_allowed_db_aliases() == ["other"]
