import pytest
from django.core.management import CommandError

from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.management.selection import select_migrations, unusable_files
from massmigration.migrations import SimpleMigration


@pytest.fixture(autouse=True)
def migrations(monkeypatch):
    """The only migrations; the first by name depends on the second."""
    late, early, bird = (SimpleMigration("testapp", name) for name in ("0001_late", "0002_early", "0002_early_bird"))
    late.dependencies = [("testapp", "0002_early")]
    monkeypatch.setattr(store, "_by_key", {each.key: each for each in (late, early, bird)})
    monkeypatch.setattr(store, "errors", {})
    return late, early, bird


@pytest.mark.parametrize("arguments", [(None, None), ("testapp", None)], ids=["all", "of an app"])
def test_without_a_name_all_come_in_the_order_of_their_dependencies(migrations, arguments):
    late, early, bird = migrations

    assert select_migrations(*arguments) == ([early, late, bird], False)


@pytest.mark.parametrize(
    "arguments",
    [("testapp", "0001"), ("testapp", "0001_late"), ("testapp:0001_late", None), ("testapp:0001", None)],
    ids=["prefix", "name", "key", "prefix of a key"],
)
def test_a_single_one_can_be_named(migrations, arguments):
    assert select_migrations(*arguments) == ([migrations[0]], True)


def test_an_exact_name_wins_over_longer_ones(migrations):
    assert select_migrations("testapp", "0002_early") == ([migrations[1]], True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("testapp", "9"), "matching '9' from app 'testapp'; it has 0001_late, 0002_early, 0002_early_bird"),
        (("auth", "0001"), "Cannot find a migration matching '0001' from app 'auth'; it has none"),
        (("testapp", "0002"), "More than one migration matches '0002' in app 'testapp': 0002_early, 0002_early_bird"),
        (("auth", None), "App 'auth' has no mass migrations"),
    ],
    ids=["unknown name", "app without migrations", "ambiguous", "app without migrations, all"],
)
def test_a_name_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(CommandError, match=message) as raised:
        select_migrations(*arguments)

    assert raised.value.returncode == 1


def test_an_unknown_app_has_an_exit_code_of_its_own():
    with pytest.raises(CommandError, match="No installed app with label 'nope'") as raised:
        select_migrations("nope", None)

    assert raised.value.returncode == 2


def test_a_file_that_cannot_be_used_is_refused_when_it_is_named(monkeypatch):
    monkeypatch.setattr(store, "errors", {"testapp:0003_broken": BadMigrationFile("it cannot be imported")})

    with pytest.raises(BadMigrationFile, match="it cannot be imported"):
        select_migrations("testapp", "0003")


@pytest.mark.parametrize(("app_label", "found"), [(None, 2), ("testapp", 1), ("auth", 1), ("admin", 0)])
def test_a_file_that_cannot_be_used_is_left_out_otherwise(monkeypatch, migrations, app_label, found):
    error = BadMigrationFile("it cannot be imported")
    monkeypatch.setattr(store, "errors", {"testapp:0003_broken": error, "auth:0001_broken": error})

    assert len(unusable_files(app_label)) == found
    assert len(select_migrations("testapp", None)[0]) == len(migrations)


def test_a_name_without_its_app_is_answered_with_the_app(migrations):
    with pytest.raises(CommandError, match=r"Put the app label before the name of a migration: testapp 0001\."):
        select_migrations("0001", None)


def test_a_broken_file_of_another_app_is_not_in_the_way(monkeypatch, migrations):
    monkeypatch.setattr(store, "errors", {"auth:0001_broken": BadMigrationFile("it cannot be imported")})

    assert select_migrations("testapp", "0001") == ([migrations[0]], True)
