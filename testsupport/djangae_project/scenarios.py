"""The functions that tests call in this project, one after the other in one process, through `drive.py serve`.

Each takes and returns what JSON can hold. Migrations are defined here and run in this process.
"""

import dataclasses
import datetime
import functools
import io
import logging
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from django.apps import apps
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.state import ProjectState
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from gcloudc.db.backends.common.base.entity import Entity
from google.api_core.exceptions import InvalidArgument
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from shop.models import Call, Item, Named, Part, Token

from massmigration import api, operations
from massmigration.documents import clock
from massmigration.documents import sharding as document_sharding
from massmigration.documents.records import LongText
from massmigration.exceptions import MassMigrationError, NotNow
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.recorder import records, shards

KEY = "shop:9000_adhoc"
IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"
MODELS = {model.__name__: model for model in (Item, Named, Part, Token)}


def empty():
    """Forget what connections and migrations were; the emulator has been emptied."""
    store.by_key.pop(KEY, None)
    limit_commits(500)
    too_large.clear()
    connection.close()


def make(kind, count, text=0):
    """Create objects whose keys are integers that the database chooses, names, or UUIDs."""
    keys = {
        "Item": lambda n: {},
        "Named": lambda n: {"code": f"user-{n}"},
        "Token": lambda n: {"id": str(uuid.UUID(int=(n * 2**120 // max(count, 1)) << 7))},
    }[kind]
    given = {"text": "x" * text} if text else {}
    step = 30 if text else 250
    for start in range(0, count, step):
        numbers = range(start, min(start + step, count))
        MODELS[kind].objects.bulk_create(MODELS[kind](name=f"Item {n}", **keys(n), **given) for n in numbers)


CONDITIONS = {
    "no slug": Q(slug=""),
    "no color": Q(color=None),
    "a color": Q(color__isnull=False),
    "not blue": ~Q(color="blue"),
    "from 2 on": Q(name__gte="Item 2"),
    "begins": Q(name__startswith="Item 1"),
    "either": Q(color=None) | Q(name="Item 3"),
    "no color, name": Q(color=None, name="Item 4"),
    "joined": Q(item__name="Item 4"),
}


def register(kind, *, form="operation", only="", bad=(), notes=1, **attributes):
    """Make a migration over a model that notes each call, and fails for the objects whose names are in `bad`."""

    def get_queryset(self, db_alias):
        objects = MODELS[kind].objects.all()
        return objects.filter(CONDITIONS[only]) if only else objects

    def operation(self, obj, db_alias):
        for _ in range(notes):
            Call.objects.using(db_alias).create(what=str(obj.pk))
        if obj.name in bad:
            raise ValueError(obj.name)
        obj.slug = obj.name.lower()
        obj.save()

    def operation_batch(self, queryset, db_alias):
        for obj in queryset:
            operation(self, obj, db_alias)

    def delete(self, obj, db_alias):
        Call.objects.using(db_alias).create(what=str(obj.pk))
        obj.delete()

    forms = {"operation": operation, "operation_batch": operation_batch, "delete": delete}
    name = "operation_batch" if form == "operation_batch" else "operation"
    given = {"get_queryset": get_queryset, name: forms[form], "backend": IMMEDIATE, **attributes}
    add(type("Migration", (MapperMigration,), given))


def add(migration_class):
    migration = migration_class("shop", "9000_adhoc")
    store.by_key[migration.key] = migration


def launch():
    api.launch(KEY, actor="code:test")
    return found()


def launch_while_rows_leave(stay):
    """Launch; all objects but `stay` leave the queryset after it has been counted."""
    bounds = document_sharding._bounds

    def leave(*arguments):
        for obj in sorted(Named.objects.filter(slug=""), key=lambda obj: obj.pk)[stay:]:
            obj.slug = "gone"
            obj.save()
        return bounds(*arguments)

    document_sharding._bounds = leave
    try:
        return launch()
    finally:
        document_sharding._bounds = bounds


def retry():
    api.retry(KEY, actor="code:test")
    return found()


def found():
    """Return the migration's status, and how often its operation was called for each object in committed batches."""
    reading = api.status(KEY)
    calls = Counter(Counter(Call.objects.values_list("what", flat=True)).values())
    return {
        "status": reading.status,
        "done": reading.done,
        "error": reading.last_error,
        "calls": sorted(calls.items()),
        "failed": [failed.object_pk for failed in FailedObject.objects.filter(resolved_at=None)],
        "shards": [shard.processed for shard in ShardRecord.objects.order_by("stage", "index")],
    }


def poison(kind, key):
    """Write an entity whose key Django's field of it cannot read."""
    put(MODELS[kind]._meta.db_table, key, {"name": "poison", "slug": ""})


def put(table, key, properties):
    connection.ensure_connection()
    native = connection.connection
    entity_key = native.new_key(table, key, namespace=connection.namespace)
    native.put(Entity(key=entity_key, properties=properties))


def put_old_records(**states):
    """Write records as the models of django-mass-migration 0.3.9 do."""
    for name, (is_applied, has_error) in states.items():
        properties = {
            "app_label": "shop",
            "name": name,
            "attempt_uuid": uuid.uuid4().hex,
            "initiated_at": timezone.now(),
            "in_progress": not (is_applied or has_error),
            "is_applied": is_applied,
            "applied_at": timezone.now() if is_applied else None,
            "has_error": has_error,
            "last_error": "ValueError: 1" if has_error else "",
            "was_faked": False,
        }
        put("massmigration_migrationrecord", f"shop:{name}", properties)


def shown():
    out = io.StringIO()
    call_command("showmassmigrations", "shop", stdout=out)
    return out.getvalue()


def is_applied(key):
    return api.status(key).status == "applied"


def events():
    return [[event.key, event.verb, event.to_status] for event in Event.objects.all()]


def refused(verb, key):
    """Perform an action, and return the message of its refusal, or an empty string."""
    try:
        getattr(api, verb)(key, actor="code:test")
    except MassMigrationError as error:
        return str(error)
    return ""


def fail_often(count):
    """Let one object fail, and record as many failures as if others had, each with a long traceback."""
    make("Item", 10)
    register("Item", bad=["Item 3"], on_error="continue")
    launch()
    failed = FailedObject.objects.get()
    values = {field.attname: getattr(failed, field.attname) for field in FailedObject._meta.concrete_fields[1:]}
    values |= {"traceback": "T" * 20_000, "message": "M" * 3_000, "object_pk": [-1]}
    for start in range(0, count, 100):
        FailedObject.objects.bulk_create(FailedObject(**values) for _ in range(min(100, count - start)))
    return failures()


def failures():
    """Return the number of unresolved failures, of rows and of texts, and the lengths of the last failure's texts."""
    last = FailedObject.objects.order_by("-pk").first()
    return {
        "unresolved": FailedObject.objects.filter(record_id=KEY, resolved_at=None).count(),
        "rows": FailedObject.objects.count(),
        "texts": LongText._default_manager.count(),
        "traceback": last and len(last.traceback),
    }


def call(verb, **options):
    getattr(api, verb)(KEY, actor="code:test", **options)
    return {**found(), "failed": len(found()["failed"])}


def repair_rows():
    register("Item", on_error="continue")


class Limited:
    """A check of commits against the limits of Google's service, which the emulators do not have."""

    MAX_ENTITIES = 500
    MAX_BYTES = 10 * 2**20

    def __init__(self, commit):
        self.commit = commit

    def __get__(self, api, owner):
        return functools.partial(self, api)

    def __call__(self, api, request, **options):
        writes = request.get("mutations") or request.get("writes") or ()
        size = sum(type(each).pb(each).ByteSize() if hasattr(type(each), "pb") else each.ByteSize() for each in writes)
        if len(writes) > self.MAX_ENTITIES:
            too_large["more than 500 entities"] += 1
            raise InvalidArgument(f"cannot write more than {self.MAX_ENTITIES} entities in a single call")
        if size > self.MAX_BYTES:
            too_large["too big"] += 1
            raise InvalidArgument("Transaction too big. Decrease transaction size.")
        return self.commit(api, request=request, **options)


too_large = Counter()

for client in (DatastoreClient, FirestoreClient):
    client.commit = Limited(client.commit)


def refusals():
    """Return the numbers of refused commits by reason."""
    return too_large


def limit_commits(entities):
    """Allow so many entities, so that few rows will do."""
    Limited.MAX_ENTITIES = entities


def first_failed(count):
    return [failed.pk for failed in FailedObject.objects.filter(resolved_at=None).order_by("pk")[:count]]


def call_while_held(verb):
    """Call it while another thread's transaction has read the record, which it lets go when the call was refused."""
    held, refused, tries = threading.Event(), threading.Event(), []

    def hold():
        with transaction.atomic():
            QuerySet(model=MigrationRecord).get(key=KEY)
            held.set()
            refused.wait()
        connection.close()

    def wait(seconds):
        tries.append(seconds)
        refused.set()
        holder.join()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        with mock.patch.object(shards.time, "sleep", wait):
            getattr(api, verb)(KEY, actor="code:test")
    finally:
        refused.set()
    return [api.status(KEY).status, len(tries) > 0]


def launch_without_workers():
    register("Item", backend="massmigration.backends.dummy.DummyBackend")
    api.launch(KEY, actor="code:test")


def launch_at_once(count):
    """Launch at the same moment in several threads, and return their results."""
    register("Item", backend="massmigration.backends.dummy.DummyBackend")
    return at_once(count, api.launch, "launched")


def proceed_at_once(count):
    """Confirm the question of the migration in several threads, and return their results."""
    return at_once(count, api.proceed, "proceeded")


def at_once(count, action, done):
    barrier = threading.Barrier(count)

    def attempt(number):
        try:
            barrier.wait()
            action(KEY, actor="code:test")
        except Exception as error:
            return type(error).__name__
        else:
            return done
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(attempt, range(count)))


def register_waiting(busy=0):
    """Make a migration over the items that asks between its two stages. Its second stage is `busy` so many times."""
    register("Item")
    first = store.by_key[KEY]
    left = [busy]

    def operation(obj, db_alias):
        if left[0]:
            left[0] -= 1
            raise NotNow("the printer is busy", delay=datetime.timedelta(0))
        Call.objects.using(db_alias).create(what=f"again {obj.pk}")

    def get_stages():
        (stage,) = type(first).get_stages(first)
        return [stage, first.wait("Are they good?"), dataclasses.replace(stage, operation=operation)]

    first.get_stages = get_stages


def recover():
    long_ago = timezone.now() - datetime.timedelta(days=1)
    for record in MigrationRecord.objects.all():
        if record.next_send_at is not None:  # its job may be lost
            MigrationRecord.objects.filter(pk=record.pk).update(next_send_at=long_ago)
    return api.recover()


def stalls():
    """Return how many tries are counted without progress."""
    return [shard.stalled_tries for shard in ShardRecord.objects.all()]


def make_old_items(count):
    """Create entities saved before the model had a color, one that is blue, and one whose color is None."""
    for n in range(count):
        put(Item._meta.db_table, n + 1, {"name": f"Item {n}", "slug": "", "text": ""})
    put(Item._meta.db_table, count + 1, {"name": "Item 0", "slug": "", "text": "", "color": "blue"})
    put(Item._meta.db_table, count + 2, {"name": "Item 0", "slug": "", "text": "", "color": None})


def called():
    return sorted(int(what) for what in Call.objects.values_list("what", flat=True))


def operate(name, *arguments, **options):
    """Add a migration with one ready-made operation."""
    arguments = [F(each["F"]) if isinstance(each, dict) else each for each in arguments]
    given = getattr(operations, name)(*arguments, **options)
    add(type("Migration", (operations.OperationsMigration,), {"operations": [given], "backend": IMMEDIATE}))


def make_with_gone_field(kind, keys):
    """Create entities with a property that has no field. Every third has None, and every third lacks the property."""
    for n, key in enumerate(keys):
        gone = [{"gone": f"Gone {n}", "_idx_iexact_gone": f"gone {n}"}, {}, {"gone": None}][n % 3]
        put(MODELS[kind]._meta.db_table, key, {"name": f"Item {n}", "slug": "kept", "color": "red", **gone})


def give_gone_field(kind):
    """Add the property of `make_with_gone_field` to all existing entities."""
    for key in MODELS[kind].objects.values_list("pk", flat=True):
        (entity,) = native_entities(kind, [key])
        entity["gone"] = "Gone"
        connection.connection.put(entity)


def native_entities(kind, keys):
    connection.ensure_connection()
    native = connection.connection
    table = MODELS[kind]._meta.db_table
    return native.get([native.new_key(table, key, namespace=connection.namespace) for key in keys])


def has_gone_field(kind):
    keys = MODELS[kind].objects.values_list("pk", flat=True)
    return sum("gone" in entity._properties for key in keys for entity in native_entities(kind, [key]))


def properties(kind, keys):
    """Return the properties of the entities, without their keys."""
    return [entity._properties for entity in native_entities(kind, keys)]


REAL = datetime.datetime


def shift_clock(seconds):
    """Move the clock of this process ahead from now on."""
    shift = datetime.timedelta(seconds=seconds)

    class Kind(type):
        def __instancecheck__(cls, value):
            return isinstance(value, REAL)

    class Shifted(REAL, metaclass=Kind):
        @classmethod
        def now(cls, tz=None):
            return REAL.now(tz) + shift

    datetime.datetime = Shifted
    clock.time = mock.Mock(time=lambda: time.time() + seconds, monotonic=time.monotonic)  # gRPC needs the real one


def plan_by_hand():
    """Launch and plan a migration with one shard, which no worker processes."""
    launch_without_workers()
    record = MigrationRecord.objects.get(key=KEY)
    job = Job(kind=JobKind.PLAN, key=KEY, db_alias="default", attempt_id=str(record.attempt_id))
    assert records.plan(job, sharding.SINGLE_SHARD)


def claim():
    """Return whether a worker in this process can claim that shard."""
    record = MigrationRecord.objects.get(key=KEY)
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias="default", attempt_id=str(record.attempt_id))
    return shards.claim(job, "a worker") is not None


def lease_left():
    """Return how many seconds are left of the shard's lease, by the clock of this process."""
    return (ShardRecord.objects.get(record_id=KEY).lease_until - timezone.now()).total_seconds()


def forget_clock():
    clock.forget()


def logged(name):
    """Call the function of this name, and return the messages that it logs."""
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("massmigration").addHandler(handler)
    try:
        globals()[name]()
    finally:
        logging.getLogger("massmigration").removeHandler(handler)
    return told


def apply_in_schema_migration(name, *arguments, **options):
    """Run an operation as `migrate` does in a schema migration."""
    given = getattr(operations, name)(*arguments, **options)
    state = ProjectState.from_apps(apps)
    given.database_forwards("shop", connection.schema_editor(), state, state)


def values(kind, name):
    return Counter(getattr(obj, name) for obj in MODELS[kind].objects.all()).most_common()


def still_matched():
    return any(ShardRecord.objects.values_list("still_matched", flat=True))
