import importlib
import sys
import types

import pytest
from django.apps import AppConfig

from massmigration import checks, loader
from massmigration.exceptions import BadMigrationFile, MigrationNotFound
from massmigration.loader import MigrationsStore, is_valid_name
from massmigration.migrations import SimpleMigration

GOOD = (
    "from massmigration.migrations import SimpleMigration\nclass Migration(SimpleMigration):\n    dependencies = {}\n"
)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Write files of an app `shop`, and get a store that has read them."""

    class Shop(AppConfig):
        path = str(tmp_path / "fake_shop")

    def read(**files):
        folder = tmp_path / "fake_shop" / "massmigrations"
        folder.mkdir(parents=True)
        for package in (folder.parent, folder):
            (package / "__init__.py").write_text("")
        for name, text in files.items():
            (folder / f"{name.removeprefix('n')}.py").write_text(text)
        config = Shop("fake_shop", importlib.import_module("fake_shop"))
        config.label = "shop"
        monkeypatch.setattr(loader, "apps", types.SimpleNamespace(get_app_configs=lambda: [config]))
        return MigrationsStore()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield read
    for name in [name for name in sys.modules if name.partition(".")[0] == "fake_shop"]:
        del sys.modules[name]


def depending_on(*names):
    return GOOD.format([("shop", name) for name in names])


def test_migrations_are_found_by_key(shop):
    store = shop(n0001_first=depending_on(), n0002_second=depending_on())

    assert list(store.by_key) == ["shop:0001_first", "shop:0002_second"]
    assert store.get("shop:0001_first").key == "shop:0001_first"
    assert len(store.of_app("shop")) == 2
    assert store.of_app("other") == []


BROKEN = {
    "syntax": ("class Migration(:", "shop/massmigrations/0002_broken.py cannot be imported: SyntaxError"),
    "import": ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError: No module named"),
    "raises": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "nothing": ("", "has no class named Migration that is a subclass of SimpleMigration"),
    "other-class": ("class Migration: pass", "has no class named Migration that is a subclass of SimpleMigration"),
    "no-class": ("Migration = 5", "has no class named Migration that is a subclass of SimpleMigration"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_takes_no_other_down(shop, kind):
    text, words = BROKEN[kind]
    store = shop(n0001_good=depending_on(), n0002_broken=text, n0003_good=depending_on())

    assert list(store.by_key) == ["shop:0001_good", "shop:0003_good"]
    with pytest.raises(BadMigrationFile) as caught:
        store.get("shop:0002_broken")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["helpers", "first", "01-dashed", "123456_long", "0001_Upper", "0001", "__init__"])
def test_files_with_other_names_are_not_migrations(name):
    assert not is_valid_name(name)


@pytest.mark.parametrize("name", ["0001_first", "1_a", "12345_b2", "0001__x"])
def test_a_number_and_a_name_make_a_migration(name):
    assert is_valid_name(name)


def test_a_file_whose_name_no_migration_can_have_is_a_warning(shop, monkeypatch):
    store = shop(**{"n0001_first": depending_on(), "n0002-dash": depending_on(), "n0003_Upper": "", "helpers": ""})
    monkeypatch.setattr(checks, "store", store)

    assert list(store.by_key) == ["shop:0001_first"]
    assert [(message.id, message.msg) for message in checks.check_files({"shop"})] == [
        ("massmigration.W004", f"shop/massmigrations/{name}.py is not run, because a migration cannot have this name.")
        for name in ("0002-dash", "0003_Upper")
    ]


def test_what_is_not_there_is_not_found(shop):
    with pytest.raises(MigrationNotFound, match=r"found no file massmigrations/0009_gone.py in app 'shop'"):
        shop().get("shop:0009_gone")


def test_migrations_come_after_what_they_depend_on(shop):
    store = shop(
        n0001_last=depending_on("0003_middle"),
        n0002_first=depending_on(),
        n0003_middle=depending_on("0004_early"),
        n0004_early=depending_on(),
    )

    assert [migration.name for migration in store.all] == ["0004_early", "0003_middle", "0001_last", "0002_first"]


def test_a_circle_is_named_and_stops_nobody_else(shop):
    store = shop(n0001_a=depending_on("0002_b"), n0002_b=depending_on("0003_c"), n0003_c=depending_on("0002_b"))

    assert store.circles() == ["shop:0002_b -> shop:0003_c -> shop:0002_b"]
    assert [migration.name for migration in store.all] == ["0003_c", "0002_b", "0001_a"]


def test_a_dependency_that_is_not_there_is_passed_over_in_the_order(shop):
    assert len(shop(n0001_a=depending_on("0009_gone")).all) == 1


def test_files_are_read_again_after_a_reset(shop, tmp_path):
    store = shop(n0001_a=depending_on())
    assert len(store.all) == 1
    (tmp_path / "fake_shop" / "massmigrations" / "0002_b.py").write_text(depending_on("0001_a"))
    assert len(store.all) == 1

    store.reset()

    assert len(store.all) == 2


class Sourced(SimpleMigration):
    def operation(self, db_alias):
        pass


def test_a_source_adds_migrations_without_files(shop):
    store = shop(n0001_first=depending_on())
    made = Sourced("shop", "0042_campaign.schema")

    store.add_source(lambda: [made])

    assert list(store.by_key) == ["shop:0001_first", "shop:0042_campaign.schema"]
    assert store.get("shop:0042_campaign.schema") is made
    assert store.of_app("shop")[-1] is made
    assert store.source_errors == []


def test_a_source_that_is_added_later_is_called_too_and_only_once(shop):
    store = shop(n0001_first=depending_on())
    calls = []

    def source():
        calls.append(1)
        return [Sourced("shop", "made")]

    _ = store.by_key
    store.add_source(source)
    store.add_source(source)

    assert "shop:made" in store.by_key
    assert (len(calls), len(store.sources)) == (1, 1)

    store.load()

    assert "shop:made" in store.by_key
    assert len(calls) == 2


def test_migrations_of_a_source_depend_on_files(shop):
    store = shop(n0001_first=depending_on("made"), n0002_second=depending_on())
    made = type("Made", (Sourced,), {"dependencies": [("shop", "0002_second")]})("shop", "made")

    store.add_source(lambda: [made])

    assert [each.name for each in store.all] == ["0002_second", "made", "0001_first"]


def raising():
    raise RuntimeError("no catalog")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (raising, "raised RuntimeError: no catalog"),
        (lambda: None, "raised TypeError"),
        (lambda: ["text"], "returned 'text', which is not an instance of BaseMigration."),
        (lambda: [Sourced("shop", "a:b")], "returned a migration with the key 'shop:a:b'"),
        (lambda: [Sourced("shop", "a\nb")], "a key has the form app_label:name"),
        (lambda: [Sourced("shop", "a" * 300)], "at most 255 characters"),
        (lambda: [Sourced("", "a")], "a key has the form app_label:name"),
        (lambda: [Sourced("shop", "0001_first")], "returned a second migration with the key 'shop:0001_first'."),
        (lambda: [type("Bad", (Sourced,), {"dependencies": 3})("shop", "a")], "'shop:a', which cannot be used"),
    ],
)
def test_a_bad_source_takes_no_other_migration_down(shop, monkeypatch, source, words):
    store = shop(n0001_first=depending_on())
    store.add_source(source)
    store.add_source(lambda: [Sourced("shop", "made")])

    assert list(store.by_key) == ["shop:0001_first", "shop:made"]
    (problem,) = store.source_errors
    assert words in problem

    monkeypatch.setattr(checks, "store", store)
    (message,) = [each for each in checks.check_files() if each.id == "massmigration.W013"]
    assert message.msg == problem
    assert not any(each.id == "massmigration.W013" for each in checks.check_files({"shop"}))
