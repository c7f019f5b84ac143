import contextlib
from functools import partial

import django
import pytest
from django.core import mail
from django.core.mail import get_connection, send_mail
from django.db import connections, transaction
from django.db.models import F

from massmigration.dryrun import captured_mail, dry_run
from massmigration.exceptions import CannotDryRun, DatabaseNotAllowed, MigrationNotFound
from massmigration.loader import store
from massmigration.management.output import dry_run_lines
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.inline_migrations import register
from testsupport.testapp.models import Call, Item, Person
from testsupport.threads import Gate, in_thread

KEY = "testapp:9002_tried"
HAPPENED = []
MISSING = 999_999


class ByObject(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.exclude(note="skip")

    def operation(self, obj, db_alias):
        if obj.note == "bad":
            raise ValueError("bad item")
        if obj.note == "gone":
            obj.delete()
            return
        obj.slug = obj.name.lower()
        obj.save(update_fields=["slug"])
        Call.objects.using(db_alias).create(migration="tried", item=obj.pk)
        transaction.on_commit(partial(HAPPENED.append, obj.pk), using=db_alias)
        send_mail("Done", obj.name, "from@example.org", ["to@example.org"])


class ByFields(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower()


class ByBatch(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)


class ByConnection(ByFields):
    """Uses a function that its file imported before the test replaced it."""

    def operation(self, obj, db_alias):
        message = mail.EmailMessage("Done", obj.name, "from@example.org", ["to@example.org"])
        get_connection(fail_silently=True).send_messages([message])


class Moving(MapperMigration):
    def get_queryset(self, db_alias):
        return Person.objects.all()

    def operation(self, obj, db_alias):
        Person.objects.using(db_alias).filter(pk=obj.pk).update(home=obj.n or None)


class MovingAll(SimpleMigration):
    def operation(self, db_alias):
        Person.objects.using(db_alias).update(home=MISSING)


class Once(SimpleMigration):
    def operation(self, db_alias):
        Item.objects.using(db_alias).update(n=5)


@pytest.fixture
def items(db_alias):
    HAPPENED.clear()
    Item.objects.using(db_alias).bulk_create(Item(name=f"Item {number}") for number in range(20))
    return list(Item.objects.using(db_alias).order_by("pk"))


def tried(cls, db_alias, size=5, **attributes):
    with store.registered(type("Migration", (cls,), attributes)("testapp", "9002_tried")):
        return dry_run(KEY, db_alias, size)


def test_it_leaves_nothing_behind(db_alias, items):
    before = list(Item.objects.using(db_alias).order_by("pk").values())

    found = tried(ByObject, db_alias)

    assert list(Item.objects.using(db_alias).order_by("pk").values()) == before
    assert not Call.objects.using(db_alias).exists()
    assert not MigrationRecord.objects.using(db_alias).exists()
    assert not ShardRecord.objects.using(db_alias).exists()
    assert not Event.objects.using(db_alias).exists()
    assert (HAPPENED, mail.outbox, found.mails) == ([], [], 5)


def test_it_shows_each_field_before_and_after(db_alias, items):
    found = tried(ByFields, db_alias)

    assert [obj.changes for obj in found.objects] == [
        {"slug": (None, f"item {number}")} for number in (0, 4, 8, 12, 16)
    ]
    assert [obj.object_pk for obj in found.objects] == [[items[number].pk] for number in (0, 4, 8, 12, 16)]


def test_it_shows_what_a_set_based_operation_does_to_each(db_alias, items):
    found = tried(ByBatch, db_alias, 2)

    assert [obj.changes for obj in found.objects] == [{"n": (0, 1)}] * 2


def test_it_knows_how_many_there_are_and_how_long_they_take(db_alias, items):
    found = tried(ByFields, db_alias)

    assert (found.total, found.is_total_estimated) == (20, False)
    assert found.estimate.total_seconds() == pytest.approx(found.duration.total_seconds() * 4, abs=1e-5)


def test_an_object_that_raises_or_vanishes_is_shown_and_the_others_go_on(db_alias, items):
    Item.objects.using(db_alias).filter(pk=items[0].pk).update(note="bad")
    Item.objects.using(db_alias).filter(pk=items[1].pk).update(note="gone")

    found = tried(ByObject, db_alias, 20)

    assert [obj.error for obj in found.objects] == ["ValueError: bad item"] + [""] * 19
    assert [obj.is_gone for obj in found.objects] == [False, True] + [False] * 18
    assert Item.objects.using(db_alias).filter(pk=items[1].pk).exists()


def test_only_objects_of_the_queryset_are_tried(db_alias, items):
    Item.objects.using(db_alias).filter(pk__gt=items[2].pk).update(note="skip")

    found = tried(ByObject, db_alias, 10)

    assert len(found.objects) == 3


def test_a_simple_migration_is_run_once_and_rolled_back(db_alias, items):
    found = tried(Once, db_alias)

    assert [obj.error for obj in found.objects] == [""]
    assert not Item.objects.using(db_alias).filter(n=5).exists()


def test_an_empty_queryset_gives_no_estimate(db_alias):
    found = tried(ByFields, db_alias)

    assert (found.objects, found.total, found.estimate) == ([], 0, None)


def test_mail_is_sent_again_after_a_dry_run(db_alias, items):
    tried(ByObject, db_alias)

    send_mail("After", "", "from@example.org", ["to@example.org"])

    assert [message.subject for message in mail.outbox] == ["After"]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="Mailers are new in Django 6.1.")
@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_mail_by_a_mailer_of_its_own_is_held_back_too(db_alias, settings):
    settings.MAILERS = {"slow": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}

    with captured_mail() as held:
        mail.EmailMessage("Held", to=["to@example.org"]).send(using="slow")
    mail.EmailMessage("After", to=["to@example.org"]).send(using="slow")

    assert [message.subject for message in held] == ["Held"]
    assert [message.subject for message in mail.outbox] == ["After"]


@pytest.mark.filterwarnings("ignore:get_connection:")
def test_mail_by_a_get_connection_that_was_imported_before_is_held_back_too(db_alias, items):
    found = tried(ByConnection, db_alias)
    get_connection().send_messages([mail.EmailMessage("After", to=["to@example.org"])])

    assert (found.mails, [message.subject for message in mail.outbox]) == (5, ["After"])
    assert {obj.error for obj in found.objects} == {""}


@pytest.mark.parametrize("by", ["operation", "engine"])
def test_a_foreign_key_to_a_missing_row_is_the_error_of_its_object(db_alias, by):
    for number, home in enumerate([0, MISSING, 0]):
        Person.objects.using(db_alias).create(name=str(number), n=home)
    own = {"update_fields": ["home"], "operation": move} if by == "engine" else {}

    found = tried(Moving, db_alias, **own)

    assert [obj.error.partition(":")[0] for obj in found.objects] == ["", "IntegrityError", ""]


def move(self, obj, db_alias):
    obj.home_id = obj.n or None


def test_a_foreign_key_to_a_missing_row_is_the_error_of_what_is_done_once(db_alias):
    Person.objects.using(db_alias).create(name="a")

    found = tried(MovingAll, db_alias)

    assert [obj.error.partition(":")[0] for obj in found.objects] == ["IntegrityError"]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_foreign_key_that_was_wrong_before_is_nobodys_error(db_alias):
    with connections[db_alias].constraint_checks_disabled():
        Person.objects.using(db_alias).create(name="a", home_id=MISSING)
    Person.objects.using(db_alias).create(name="b")

    found = tried(Moving, db_alias, operation=lambda self, obj, db_alias: None)

    assert [obj.error for obj in found.objects] == ["", ""]


def test_a_busy_database_refuses_and_says_so(db_alias, items):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 0" if db_alias == "default" else DATABASE_SERVERS[db_alias].impatient)

    with locked(db_alias, items[0]), pytest.raises(CannotDryRun) as caught:
        tried(ByFields, db_alias)

    connections[db_alias].close()
    assert str(caught.value).startswith("The database raised an error: ")
    assert str(caught.value).endswith(". Nothing was changed. Try again.")


@contextlib.contextmanager
def locked(db_alias, item):
    """Lock the row in another session, which has changed it and has not committed yet."""
    gate = Gate()

    def hold():
        with transaction.atomic(using=db_alias):
            Item.objects.using(db_alias).filter(pk=item.pk).update(n=1)
            gate.wait()

    holder = in_thread(hold)
    gate.await_arrivals()
    try:
        yield
    finally:
        gate.open()
        holder.result()


def test_effects_that_no_rollback_takes_back_are_refused(db_alias):
    with pytest.raises(CannotDryRun, match="has atomic = False"):
        tried(ByObject, db_alias, atomic=False)


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_sample_of_a_size_that_makes_no_sense_is_refused(db_alias, size):
    with pytest.raises(CannotDryRun, match="A dry run takes 1 to 1000 objects"):
        tried(ByObject, db_alias, size)


def test_what_cannot_be_launched_cannot_be_tried(db_alias):
    with pytest.raises(DatabaseNotAllowed):
        tried(ByObject, db_alias, allowed_db_aliases=[])
    with pytest.raises(MigrationNotFound):
        dry_run("testapp:9999_missing", db_alias)


class Idle(ByFields):
    def operation(self, obj, db_alias):
        obj.n += 1


class Unsaved(ByFields):
    update_fields = None

    def operation(self, obj, db_alias):
        obj.n += 1


class IdleBatch(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        for item in queryset:
            item.n += 1


class Elsewhere(Unsaved):
    def operation(self, obj, db_alias):
        Call.objects.using(db_alias).create(migration="tried", item=obj.pk)


@pytest.mark.parametrize("way", [Idle, Unsaved, IdleBatch])
def test_a_sample_of_which_nothing_changed_is_a_warning(db_alias, monkeypatch, way):
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(3))
    key = register(monkeypatch, way)

    found = dry_run(key, db_alias, 3)

    assert found.has_changed_nothing
    assert "Warning: no object was changed, and nothing else was written." in "\n".join(
        dry_run_lines(key, db_alias, found)
    )


@pytest.mark.parametrize("way", [ByFields, ByBatch, Elsewhere, ByObject])
def test_a_sample_that_changed_or_wrote_something_is_none(db_alias, monkeypatch, way):
    Item.objects.using(db_alias).bulk_create(Item(name=f"Item {number}") for number in range(3))

    found = dry_run(register(monkeypatch, way), db_alias, 3)

    assert (found.has_changed_nothing, found.unwritten) == (False, [])


class Beside(ByFields):
    def operation(self, obj, db_alias):
        obj.slug = "new"
        obj.n = F("n") + 1
        obj.data["seen"] = True
        obj.note = obj.note + ""


class Saving(ByFields):
    def operation(self, obj, db_alias):
        obj.slug = "new"
        obj.n += 1
        obj.save(update_fields=["n"])


@pytest.mark.parametrize(("way", "names"), [(Beside, ["n", "data"]), (Idle, ["n"]), (Saving, []), (Unsaved, [])])
def test_fields_that_are_assigned_and_not_written_are_a_warning(db_alias, monkeypatch, way, names):
    Item.objects.using(db_alias).create(name="a")
    key = register(monkeypatch, way)

    found = dry_run(key, db_alias, 1)

    assert found.unwritten == names
    told = f"assigned {', '.join(map(repr, names))}, which is not in update_fields"
    assert (told in "\n".join(dry_run_lines(key, db_alias, found))) is bool(names)
