import pytest
from django.apps import apps
from django.core.checks import Warning, run_checks
from django.template.loader import get_template

from massmigration import checks
from massmigration.backends.dummy import DummyBackend
from massmigration.definitions.base import BaseMigration, MapperMigration, SimpleMigration
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.operations import OperationsMigration
from testsupport.testapp import massmigrations
from testsupport.testapp.models import Item

DUMMY = "massmigration.backends.dummy.DummyBackend"


class Simple(SimpleMigration):
    def operation(self, db_alias):
        pass


class Mapper(MapperMigration):
    def get_queryset(self, db_alias):
        raise NotImplementedError


class WithoutSend(DummyBackend):
    def __init__(self, **options):
        raise RuntimeError("No broker.")


class Grumbling(DummyBackend):
    def check(self):
        yield Warning("The broker is old.", id="example.W001")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The test app's folder of migrations, moved to an empty place."""
    monkeypatch.setattr(apps.get_app_config("testapp"), "path", str(tmp_path))
    (tmp_path / "massmigrations").mkdir()
    store.reset()
    yield tmp_path / "massmigrations"
    store.reset()


def make(kind=Simple, name="0900_made", **attributes):
    return type("Migration", (kind,), attributes)("testapp", name)


def check(*migrations):
    """Return the messages that the checks add for these migrations."""
    before = checks.check()
    with store.registered(*migrations):
        return [message for message in checks.check() if message not in before]


def ids(messages):
    return [message.id for message in messages]


def backend_here(cls):
    """Return the dotted path of a class of this file, under the name by which pytest has imported the file."""
    return f"{__name__}.{cls.__name__}"


def test_a_project_in_order_has_no_messages():
    assert checks.check() == []


@pytest.mark.django_db(databases="__all__")  # Django's checks query them
def test_django_runs_them():
    with store.registered(make(allowed_db_aliases=["typo"])):
        assert "massmigration.E003" in ids(run_checks())
        assert ids(run_checks(tags=[checks.TAG])) == ["massmigration.E003"]


def test_only_the_apps_asked_for_are_checked():
    with store.registered(make(allowed_db_aliases=["typo"])):
        of_others = checks.check([apps.get_app_config("auth")])
        of_its_own = checks.check([apps.get_app_config("testapp")])

    assert (ids(of_others), ids(of_its_own)) == ([], ["massmigration.E003"])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("0001_syntax", "def", "cannot be imported: SyntaxError"),
        (
            "0002_import",
            "import not_installed",
            "cannot be imported: ModuleNotFoundError: No module named 'not_installed'",
        ),
        ("0003_empty", "", "has no class named Migration"),
        ("0004_no_class", "Migration = 1", "has no class named Migration"),
    ],
    ids=["syntax", "import", "empty", "no class"],
)
def test_e001_a_file_that_cannot_be_used(folder, monkeypatch, name, text, problem):
    monkeypatch.setattr(massmigrations, "__path__", [str(folder)])
    (folder / f"{name}.py").write_text(text)

    (message,) = checks.check()

    assert message.id == "massmigration.W004"
    assert message.msg.startswith(f"testapp/massmigrations/{name}.py {problem}")
    assert message.hint.startswith("Correct the file")


def test_e002_a_circle_of_dependencies():
    one = make(name="0901_one", dependencies=[("testapp", "0902_two")])
    two = make(name="0902_two", dependencies=[("testapp", "0901_one")])

    (message,) = check(one, two)

    assert message.id == "massmigration.E002"
    assert "testapp:0901_one -> testapp:0902_two -> testapp:0901_one" in message.msg
    assert "None of them can be launched" in message.hint


@pytest.mark.parametrize("allowed", [["default", "typo"], "default"], ids=["unknown", "a text"])
def test_e003_a_database_that_does_not_exist(allowed):
    (message,) = check(make(allowed_db_aliases=allowed))

    assert message.id == "massmigration.E003"
    assert (
        f"'testapp:0900_made' has allowed_db_aliases = {allowed!r}; it must be a list of some of 'default'"
        in message.msg
    )
    assert "add it to DATABASES" in message.hint


@pytest.mark.parametrize("path", ["nowhere.Backend", "massmigration.loader.store", "nodots"])
def test_e004_the_backend_of_the_settings_is_none(settings, path):
    settings.MASSMIGRATION_BACKEND = path

    (message,) = checks.check()

    assert message.id == "massmigration.E004"
    assert message.msg.startswith("The setting MASSMIGRATION_BACKEND: ")
    assert repr(path) in message.msg
    assert message.hint == "Correct the path, or install its package."


@pytest.mark.parametrize("path", ["nowhere.Backend", "massmigration.loader.store"])
def test_e004_the_backend_of_a_migration_is_none(path):
    (message,) = check(make(backend=path))

    assert message.id == "massmigration.E004"
    assert message.msg.startswith("Migration 'testapp:0900_made': ")


def test_e004_a_backend_that_cannot_be_made(settings):
    settings.MASSMIGRATION_BACKEND = backend_here(WithoutSend)

    (message,) = checks.check()

    assert message.id == "massmigration.E004"
    assert message.msg.endswith("the backend cannot be created: RuntimeError: No broker.")


def test_what_a_backend_itself_finds_is_shown_once(settings):
    settings.MASSMIGRATION_BACKEND = backend_here(Grumbling)

    with store.registered(make(queue_name="slow"), make(name="0901_more", queue_name="fast")):
        assert checks.check() == [Warning("The broker is old.", id="example.W001")]


def raise_in_stages(self):
    raise KeyError("stages")


@pytest.mark.parametrize(
    ("migration", "problem"),
    [
        (make(SimpleMigration), "has no operation(self, db_alias) method"),
        (make(MapperMigration), "has no get_queryset(self, db_alias) method"),
        (make(Mapper), "has neither operation(self, obj, db_alias) nor"),
        (make(Mapper, operation=id, operation_batch=id), "has both operation() and operation_batch()"),
        (make(Mapper, operation=id, update_fields="slug"), "has update_fields = 'slug'"),
        (make(Mapper, operation_batch=id, update_fields=["slug"]), "has update_fields, which"),
        (make(Mapper, operation=id, batch_size=0), "has batch_size = 0"),
        (make(BaseMigration), "defines neither stages nor launch()"),
        (make(get_stages=raise_in_stages), "raised in get_stages(): KeyError: 'stages'"),
    ],
    ids=["once", "queryset", "none", "both", "a text", "useless", "size", "base", "own"],
)
def test_e005_stages_that_cannot_be_built(migration, problem):
    (message,) = check(migration)

    assert message.id == "massmigration.E005"
    assert message.msg.startswith(f"Migration 'testapp:0900_made' {problem}")
    assert message.hint == "Correct the file; it cannot be launched as it is."


def queryset(**methods):
    return {"get_queryset": lambda self, db_alias: Item.objects.filter(**methods), "operation": lambda *a: None}


async def asynchronous(self, obj, db_alias):
    raise AssertionError


@pytest.mark.parametrize(
    ("migration", "problem"),
    [
        (make(Mapper, operation=lambda self, obj: None), "operation() of migration 'testapp:0900_made' is called with"),
        (make(Mapper, operation=asynchronous), "operation() of migration 'testapp:0900_made' is asynchronous"),
        (make(SimpleMigration, operation=lambda self: None), "is called with (db_alias), but takes (). Define it as"),
        (make(get_stages=lambda self: [self.once(lambda: None)]), "but takes (). Define it as operation(db_alias)."),
        (make(get_stages=lambda self: [self.mapped(typo=1)]), "raised in get_stages(): TypeError"),
    ],
    ids=["object", "async", "once", "function", "argument"],
)
def test_e005_methods_that_cannot_be_called(migration, problem):
    (message,) = check(migration)

    assert message.id == "massmigration.E005"
    assert problem in message.msg


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"update_fields": ["nme"]}, "names 'nme', which testapp.Item does not have; it has: data, id, n, name,"),
        ({"update_fields": ["nme"]}, "Did you mean 'name'?"),
        ({"update_fields": ["id"]}, "is not a writable column of testapp.Item"),
        ({"cursor_field": "name"}, "of testapp.Item, which is not unique"),
        ({"get_queryset": lambda self, db_alias: Item.objects.all()[:5]}, "a sliced queryset"),
    ],
    ids=["field", "guess", "key", "cursor", "queryset"],
)
def test_w005_what_the_models_do_not_allow(attributes, problem):
    (message,) = check(make(MapperMigration, **{**queryset(), **attributes}))

    assert message.id == "massmigration.W005"
    assert problem in message.msg


def asking(self, db_alias):
    return Item.objects.filter(pk__in=list(Item.objects.values_list("pk", flat=True)))[:5]


def raising(self, db_alias):
    raise KeyError(db_alias)


@pytest.mark.parametrize("method", [asking, raising], ids=["query", "error"])
def test_w005_makes_no_query(db_alias, method):
    Item.objects.using(db_alias).create(name="one")

    assert check(make(MapperMigration, **{**queryset(), "get_queryset": method})) == []
    assert Item.objects.using(db_alias).count() == 1


@pytest.mark.parametrize(
    "migration",
    [
        make(BaseMigration, launch=lambda self, db_alias: None),
        make(SimpleMigration, launch=lambda self, db_alias: None),
        make(BaseMigration, backend_method="run_mine"),
    ],
    ids=["base", "simple", "method of the backend"],
)
def test_a_custom_migration_needs_no_stages(migration):
    assert check(migration) == []


def test_e007_django_mass_migration_is_installed_too(tmp_path, monkeypatch):
    (tmp_path / "django_mass_migration-0.3.9.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: django-mass-migration\nVersion: 0.3.9\n"
    (tmp_path / "django_mass_migration-0.3.9.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)

    (message,) = checks.check()

    assert message.id == "massmigration.E007"
    assert message.msg.startswith("django-mass-migration 0.3.9 and massmigration-core are both installed")
    assert "pip uninstall django-mass-migration" in message.hint


OLD_MIGRATION = "from massmigration.fields import ComputedCharField\n"


@pytest.fixture
def other_schema_migrations():
    """Let the store read its sources with the MIGRATION_MODULES of this test, and once more for the next."""
    store.reset()
    yield
    store.reset()


@pytest.mark.usefixtures("other_schema_migrations")
def test_e012_schema_migrations_of_the_projects_own(settings, tmp_path, monkeypatch):
    (tmp_path / "records_of_old").mkdir()
    (tmp_path / "records_of_old" / "__init__.py").touch()
    (tmp_path / "records_of_old" / "0001_initial.py").write_text(OLD_MIGRATION)
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"massmigration": "records_of_old"}

    (message,) = [each for each in run_checks() if each.id.startswith("massmigration.E")]

    assert message.id == "massmigration.E012"
    assert "with 'records_of_old'" in message.msg
    assert "Remove 'massmigration' from MIGRATION_MODULES, then run: manage.py migrate" in message.hint


@pytest.mark.usefixtures("other_schema_migrations")
@pytest.mark.parametrize("module", [None, "massmigration.migrations"])
def test_tables_without_migrations_or_with_ours_are_in_order(settings, module):
    settings.MIGRATION_MODULES = {"massmigration": module}

    assert checks.check() == []


@pytest.mark.usefixtures("other_schema_migrations")
def test_a_schema_migration_that_cannot_be_imported_ends_no_check(settings, tmp_path, monkeypatch):
    (tmp_path / "of_testapp").mkdir()
    (tmp_path / "of_testapp" / "__init__.py").touch()
    (tmp_path / "of_testapp" / "0001_initial.py").write_text(OLD_MIGRATION)
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"testapp": "of_testapp"}

    assert [each for each in run_checks() if each.id.startswith("massmigration.E")] == []


@pytest.mark.parametrize("text", ["", "{% nonsense %}"], ids=["good", "broken"])
@pytest.mark.parametrize("name", checks.TEMPLATES)
def test_w010_a_template_of_the_predecessors_pages(settings, tmp_path, name, text):
    (tmp_path / "massmigration").mkdir()
    (tmp_path / "massmigration" / name).write_text(text)
    (given,) = settings.TEMPLATES
    settings.TEMPLATES = [{**given, "DIRS": [str(tmp_path)]}]

    (message,) = checks.check()

    assert message.id == "massmigration.W010"
    assert name in message.msg
    for successor in checks.TEMPLATES[name].split(" and "):
        assert successor in message.hint
        assert get_template(f"massmigration/{successor}")


def test_a_registered_migration_may_have_any_name():
    assert check(make(name="made"), make(name="0002"), make(name="x_1")) == []


@pytest.mark.parametrize(
    "dependencies",
    [["testapp:0001_once"], "testapp", [("testapp",)], [("testapp", 1)], None],
    ids=["keys", "a text", "single", "number", "none"],
)
def test_e009_dependencies_that_are_no_pairs(dependencies):
    (message,) = check(make(dependencies=dependencies))

    assert message.id == "massmigration.E009"
    assert message.msg == f"Migration 'testapp:0900_made' has dependencies = {dependencies!r}."
    assert message.hint.startswith("It must be a list of pairs")


def test_w001_two_files_with_one_number():
    (message,) = check(make(name="900_other"), make(name="00900_another"))

    assert message.id == "massmigration.W001"
    assert message.msg == "Migrations of app 'testapp' have the same number: '00900_another', '900_other'."
    assert message.hint.startswith("Rename the one that has not been applied anywhere")


def test_w001_counts_files_that_cannot_be_used(monkeypatch):
    assert store.by_key
    monkeypatch.setitem(store.errors, "testapp:0900_broken", BadMigrationFile("It is broken."))

    messages = check(make())

    assert ids(messages) == ["massmigration.W001"]


def test_w002_an_unknown_dependency():
    (message,) = check(make(dependencies=[("testapp", "0001_once"), ("testapp", "0001_typo")]))

    assert message.id == "massmigration.W002"
    assert message.msg == "Migration 'testapp:0900_made' depends on 'testapp:0001_typo', which has no file."
    assert message.hint.startswith("Correct the name.")


@pytest.mark.parametrize(
    ("kind", "name", "value", "option"),
    [
        (Mapper, "update_field", ["n"], "update_fields"),
        (Mapper, "updatefields", ["n"], "update_fields"),
        (Mapper, "on_eror", "continue", "on_error"),
        (Mapper, "batchsize", 7, "batch_size"),
        (Mapper, "max_failure", 7, "max_failures"),
        (Mapper, "max_consequtive_failures", 7, "max_consecutive_failures"),
        (Mapper, "lock_row", False, "lock_rows"),
        (Mapper, "dependancies", [], "dependencies"),
        (Mapper, "operation_batches", lambda self, queryset, db_alias: None, "operation_batch"),
        (Mapper, "opertion", lambda self, obj, db_alias: None, "operation"),
        (Mapper, "remainig", lambda self, db_alias: 0, "remaining"),
        (MapperMigration, "get_query_set", lambda self, db_alias: None, "get_queryset"),
        (Simple, "atomicc", False, "atomic"),
        (OperationsMigration, "operation", [], "operations"),
        (OperationsMigration, "max_failurs", 1, "max_failures"),
    ],
)
def test_an_attribute_that_looks_like_a_misspelled_option_is_told(kind, name, value, option):
    (message,) = [each for each in check(make(kind, **{name: value})) if each.id == "massmigration.W009"]

    assert f"has an attribute {name!r}" in message.msg
    assert message.hint.startswith(f"Did you mean {option!r}?")


def operation(self, obj, db_alias):
    pass


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        (Mapper, {"operation": operation, "operations": []}),
        (Mapper, {"operation": operation, "operate": operation, "get_query": operation, "remaining_count": operation}),
        (Mapper, {"operation": operation, "fields": [], "batch": 7, "errors": 0, "keys": [], "rows": 1, "model": Item}),
        (Mapper, {"operation": operation, "UPDATE_FIELD": [], "_update_field": [], "limit": 5, "dependency": "x"}),
        (Mapper, {"operation": operation, "Update_Fields": type("Update_Fields", (), {})}),
        (Mapper, {"operation": operation, "update_fields": ["n"], "update_field": "n"}),
        (Simple, {"queue_names": ["a"], "queue_name": "a", "slugs": {}}),
    ],
)
def test_other_attributes_are_the_migrations_own_affair(kind, attributes):
    assert "massmigration.W009" not in ids(check(make(kind, **attributes)))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Simple, "update_fields", ["n"]),
        (Simple, "on_error", "continue"),
        (OperationsMigration, "update_fields", ["n"]),
        (OperationsMigration, "cursor_field", "n"),
        (OperationsMigration, "remaining", lambda self, db_alias: 0),
    ],
)
def test_an_option_of_another_kind_of_migration_is_told(kind, name, value):
    (message,) = [each for each in check(make(kind, **{name: value})) if each.id == "massmigration.W009"]

    assert f"sets {name!r}, which has no effect on a " in message.msg


def test_migrations_with_stages_of_their_own_may_read_any_option():
    attributes = {"update_fields": ["n"], "batch_size": 5, "get_stages": lambda self: []}

    assert "massmigration.W009" not in ids(check(make(BaseMigration, **attributes)))
