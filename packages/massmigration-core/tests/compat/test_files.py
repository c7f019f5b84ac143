"""A project that was written for django-mass-migration 0.3.9, used with it, and continued with massmigration."""

import pickle

import pytest
from django.apps import apps

from massmigration import api, loader
from massmigration.exceptions import BadMigrationFile, CannotRunOnDB, DbAliasNotAllowed
from massmigration.migrations import BaseMigration, MapperMigration, SimpleMigration, get_all_db_aliases
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.oracle import make_items
from testsupport.testapp.models import Item
from testsupport.v03_versions import INLINE

pytestmark = pytest.mark.slow

TO_LAUNCH = ["shop:0002_mapper", "shop:0002_same_number", "shop:0003_custom", "shop:0004_own_method"]


@pytest.fixture(params=[INLINE, IMMEDIATE], ids=["custom backend", "engine"])
def backend(request):
    return request.param


def test_a_project_goes_on_unchanged(db_alias, v03_project, backend):
    v03_project.manage("migrate", backend=backend)

    after = v03_project.run_new("launch", *TO_LAUNCH, backend=backend)

    flags = {key: record["flags"] for key, record in after["records"].items()}
    assert {key for key, (is_applied, _, _) in flags.items() if is_applied} == {"shop:0001_simple", *TO_LAUNCH}
    assert {key for key, (_, has_error, _) in flags.items() if has_error} == {"shop:0005_broken", "shop:0007_fails"}
    assert {key for key, record in after["records"].items() if record["is_applied"]} == {
        "shop:0001_simple",
        *TO_LAUNCH,
    }
    assert [slug for slug, _ in after["products"]] == [f"product-{number}" for number in range(10)]
    # Each launch counted once. django-mass-migration's launches counted 1, and 1000 except for the failed product.
    assert [n for _, n in after["products"]] == [1311] * 3 + [311] + [1311] * 6


def test_the_command_runs_its_migrations(db_alias, v03_project, backend):
    v03_project.manage("migrate", backend=backend)

    for name in ("0002_mapper", "0003_custom", "0004_own_method"):
        assert f"shop:{name} applied" in v03_project.manage("massmigrate", "shop", name, backend=backend)


def test_its_checks_find_only_the_number_that_two_files_have(db_alias, v03_project):
    out = v03_project.manage("check")

    assert "Migrations of app 'shop' have the same number: '0002_mapper', '0002_same_number'." in out
    assert "System check identified 1 issue" in out


def test_its_files_are_all_found(db_alias, v03_project):
    before = v03_project.run_old("describe")
    v03_project.manage("migrate")

    assert v03_project.run_new("describe")["keys"] == before["keys"]


class Mapper(MapperMigration):
    """Slugs."""

    def get_queryset(self, db_alias):
        return Item.objects.all().order_by("-name")

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower()
        obj.save()


@pytest.fixture
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


def test_an_ordering_is_dropped_with_a_warning(db_alias, immediate, monkeypatch, caplog):
    make_items(db_alias, 5)

    record = launch(register(monkeypatch, Mapper), db_alias)

    assert record.status == Status.APPLIED
    assert Item.objects.using(db_alias).filter(slug__startswith="item").count() == 5
    assert "Dropped the ordering of the queryset of migration testapp:9000_adhoc" in caplog.text


class CallsSuper(Mapper):
    def launch(self, db_alias):
        super().launch(db_alias)


def test_a_launch_that_calls_supers_goes_to_the_engine(db_alias, immediate, monkeypatch):
    make_items(db_alias, 5)

    record = launch(register(monkeypatch, CallsSuper), db_alias)

    assert (record.status, record.is_managed) == (Status.APPLIED, True)
    assert ShardRecord.objects.using(db_alias).count() == 1


class Custom(BaseMigration):
    """Calls the function of the test."""

    def launch(self, db_alias):
        self.work(self.mark_as_started(db_alias), db_alias)

    def work(self, attempt, db_alias):
        self.mark_as_finished(db_alias)


def test_a_custom_migration_is_recorded_by_what_it_says(db_alias, monkeypatch):
    record = launch(register(monkeypatch, Custom), db_alias)

    assert (record.status, record.is_managed) == (Status.APPLIED, False)
    assert record.launched_at <= record.started_at <= record.finished_at
    events = Event.objects.using(db_alias).values_list("verb", "actor", "to_status")
    assert list(events) == [("launch", "code:test", "running"), ("applied", "", "applied")]


class Fails(Custom):
    def work(self, attempt, db_alias):
        self.mark_as_errored(db_alias, LookupError("not there"))
        self.mark_as_finished(db_alias)


def test_what_has_failed_is_not_applied_afterwards(db_alias, monkeypatch, caplog):
    record = launch(register(monkeypatch, Fails), db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "LookupError: not there")
    assert "was reported applied by attempt" in caplog.text
    assert f"ignored: it is failed, in attempt {record.attempt_id}" in caplog.text


class Replaced(Custom):
    def work(self, attempt, db_alias):
        api.cancel(self.key, db_alias)
        api.forget(self.key, db_alias)
        self.second = Custom.mark_as_started(type(self)(self.app_label, self.name), db_alias)
        self.mark_as_finished(db_alias, attempt)


def test_a_replaced_attempt_ends_nothing(db_alias, monkeypatch):
    record = launch(register(monkeypatch, Replaced), db_alias)

    assert record.status == Status.RUNNING


class ReplacedElsewhere(Custom):
    def work(self, attempt, db_alias):
        record = MigrationRecord.objects.using(db_alias).filter(key=self.key)
        record.update(attempt_id="00000000-0000-4000-8000-000000000000")
        self.mark_as_finished(db_alias)
        self.mark_as_errored(db_alias)


def test_a_launch_reports_of_its_own_attempt_without_being_told_which(db_alias, monkeypatch):
    record = launch(register(monkeypatch, ReplacedElsewhere), db_alias)

    assert record.status == Status.RUNNING


def test_what_others_began_can_be_ended_from_elsewhere(db_alias, monkeypatch):
    migration = Custom("testapp", "9000_adhoc")
    migration.mark_as_started(db_alias)

    pickle.loads(pickle.dumps(migration)).mark_as_finished(db_alias)

    assert migration.get_migration_record(db_alias).is_applied


def test_the_engines_records_are_ended_by_nobody_else(db_alias, settings, monkeypatch, caplog):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    record = launch(register(monkeypatch, Mapper), db_alias)
    migration = loader.store.by_key[record.key]

    migration.mark_as_finished(db_alias)
    migration.mark_as_errored(db_alias, "no")

    assert migration.get_migration_record(db_alias).status == Status.QUEUED
    assert "only the engine, which runs it, reports its end" in caplog.text


def test_what_was_never_started_is_not_marked(db_alias, caplog):
    Custom("testapp", "9000_adhoc").mark_as_finished(db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()
    assert "ignored: it has no record" in caplog.text


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (["default", "replica"], "has 'replica' in allowed_db_aliases; the databases of this project are 'default'"),
        ([], "is not allowed on database 'default'; allowed: "),
    ],
    ids=["unknown", "none"],
)
def test_a_database_that_is_not_allowed_is_refused(monkeypatch, allowed, message):
    monkeypatch.setattr(Custom, "allowed_db_aliases", allowed)

    with pytest.raises(CannotRunOnDB, match=message):
        api.launch(register(monkeypatch, Custom))


def test_both_old_names_catch_it():
    assert CannotRunOnDB is DbAliasNotAllowed


def test_attributes_and_methods_have_their_names():
    migration = Mapper("testapp", "0099_slugs")
    migration.backend = "somewhere.Backend"

    assert (migration.key, migration.description) == ("testapp:0099_slugs", "Slugs.")
    assert (migration.backend_str, migration.get_backend_params()) == ("somewhere.Backend", {})
    assert migration.get_allowed_db_aliases() == get_all_db_aliases()


def test_the_backend_of_the_setting_is_its_backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE

    migration = SimpleMigration("testapp", "0099_simple")

    assert migration.backend_str == IMMEDIATE
    assert type(migration.get_backend()).__name__ == "ImmediateBackend"


def test_without_djangos_setup_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(BaseMigration, "launch_through_engine", None)

    with pytest.raises(BadMigrationFile, match="INSTALLED_APPS"):
        Mapper("testapp", "0099_slugs").launch("default")


@pytest.mark.parametrize(
    ("filename", "name"),
    [("0001_my_migration.py", "0001_my_migration"), ("0001_my_migration.html", None), ("__init__.py", None)],
)
def test_the_loader_finds_names_in_filenames(filename, name):
    assert loader.migration_id_from_filename(filename) == name


@pytest.mark.parametrize(("name", "is_valid"), [("valid_name", True), ("hyphens-not", False), ("dots.not", False)])
def test_the_loader_knows_valid_names(name, is_valid):
    assert loader.is_valid_migration_name(name) is is_valid
    assert loader.is_valid_migration_id(f"0023_{name}") is is_valid


def test_the_loader_loads_one_file():
    migration = loader.load_migration(apps.get_app_config("testapp"), "0001_once")

    assert migration.key == "testapp:0001_once"


def test_the_store_is_loaded_again_when_asked():
    before = loader.store.by_key["testapp:0001_once"]

    loader.store.load()

    assert loader.store.by_key["testapp:0001_once"] is not before
    assert "testapp:0001_once" in [migration.key for migration in loader.store.all]
