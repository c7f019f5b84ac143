"""The common parts of all pages: permissions, the page frame, and the lookup of the migration in the URL."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable, Iterable
from typing import Any

from django.apps import apps
from django.conf import global_settings, settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import DatabaseError, connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from massmigration import actors
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import question_of
from massmigration.exceptions import MassMigrationError, RecordsUnreadable
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord
from massmigration.progress import Snapshot, is_stuck, read_snapshot
from massmigration.recorder import tables
from massmigration.states import Status
from massmigration.verbs import VERBS, Verb

View = Callable[..., HttpResponse]


def may(request: HttpRequest, permission: str) -> bool:
    """Return whether the user has the permission `view` and this one: `run`, `control`, `forget` or `inspect`."""
    names = [f"massmigration.{each}_migrationrecord" for each in ("view", permission)]
    return bool(getattr(request, "user", None)) and request.user.has_perms(names)


def require(request: HttpRequest, permission: str) -> None:
    """Respond with 403 unless the user has this permission."""
    if not may(request, permission):
        raise PermissionDenied


def refuse_unstorable(request: HttpRequest) -> None:
    """Respond with 400 if a parameter contains characters that databases do not store."""
    for parameters in (request.GET, request.POST):
        for name, values in parameters.lists():
            if not is_storable([name, *values]):
                raise BadRequest("A parameter of the request contains a NUL character or a lone surrogate.")


def is_storable(texts: Iterable[str]) -> bool:
    """Return whether no text contains a NUL, which PostgreSQL refuses, or a lone surrogate, which UTF-8 refuses."""
    return not any("\x00" in text or any("\ud800" <= character <= "\udfff" for character in text) for text in texts)


def page(permission: str = "view", *, posts: bool = False, is_json: bool = False) -> Callable[[View], View]:
    """Make a function a view that requires the permission, and allows POST with `posts`. Its events name the user."""
    methods = require_http_methods(["GET", "HEAD", *(["POST"] if posts else [])])

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, **arguments: str) -> HttpResponse:
            user = getattr(request, "user", None)
            if user is None or not user.is_authenticated:
                if is_json:
                    return JsonResponse({"error": gettext("You are logged out.")}, status=403)
                return redirect_to_login(request.get_full_path(), _login_address())
            require(request, permission)
            refuse_unstorable(request)
            if arguments.get("db_alias") not in (None, *connections):
                raise Http404(gettext("There is no such database."))
            with actors.acting(user.get_username(), source="page"):
                return _call(view, request, arguments, is_json=is_json)

        return never_cache(methods(csrf_protect(outside_transactions(guarded))))

    return decorate


def outside_transactions(view: View) -> View:
    """Exempt a view from `ATOMIC_REQUESTS`, because the engine opens its own transactions."""
    for db_alias in connections:
        view = transaction.non_atomic_requests(using=db_alias)(view)
    return view


def _call(view: View, request: HttpRequest, arguments: dict[str, str], *, is_json: bool) -> HttpResponse:
    try:
        return view(request, **arguments)
    except DatabaseError:
        try:
            tables.require(arguments["db_alias"])
        except RecordsUnreadable as error:
            if is_json:
                return JsonResponse({"error": str(error)}, status=503)
            context = {"title": gettext("Mass migrations"), "problem": str(error)}
            return render(request, "problem", context, status=503)
        raise


def _login_address() -> str:
    """Return `LOGIN_URL`, or the admin's login page if the project has the admin and has not set `LOGIN_URL`."""
    if settings.LOGIN_URL == global_settings.LOGIN_URL and has_admin():
        return resolve_url("admin:login")
    return resolve_url(settings.LOGIN_URL)


def has_admin() -> bool:
    """Return whether the admin is installed and has a URL."""
    if not apps.is_installed("django.contrib.admin"):
        return False
    try:
        reverse("admin:index")
    except NoReverseMatch:
        return False
    return True


def render(request: HttpRequest, name: str, context: dict[str, Any], *, status: int | None = None) -> HttpResponse:
    """Render a template of `templates/massmigration`; inside the admin's frame if the user may use the admin."""
    frame = {"base_template": "massmigration/standalone.html"}
    if has_admin():
        from django.contrib import admin  # importable only if the app is installed

        if admin.site.has_permission(request):
            frame = {**admin.site.each_context(request), "base_template": "massmigration/in_admin.html"}
    return TemplateResponse(request, f"massmigration/{name}.html", {**frame, **context}, status=status)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One migration on one database."""

    key: str
    db_alias: str
    migration: BaseMigration | None
    file_error: str
    snapshot: Snapshot | None
    """None if the migration was never launched."""

    @property
    def record(self) -> Any:
        """The `MigrationRecord`, or None."""
        return self.snapshot.record if self.snapshot else None

    @property
    def status(self) -> Status | None:
        """The status, or None if there is no record."""
        return self.snapshot.progress.status if self.snapshot else None

    @property
    def beat(self) -> dt.datetime | None:
        """The time of the last checkpoint of the current stage, or None."""
        shards = self.snapshot.shards if self.snapshot else ()
        return max((shard.heartbeat_at for shard in shards if shard.heartbeat_at), default=None)

    @property
    def is_stuck(self) -> bool:
        """Whether the migration should make progress but does not."""
        if self.snapshot is None:
            return False
        leases = [shard.lease_until for shard in self.snapshot.shards if shard.lease_until and not shard.is_done]
        overdue = sum(until < self.record.now for until in leases)
        dues = [shard.next_send_at for shard in self.snapshot.shards if not shard.is_done and not shard.send_count]
        due = max((due for due in dues if due), default=None)
        return is_stuck(self.record, overdue=overdue, held=len(leases), beat=self.beat, due=due)

    @property
    def name(self) -> str:
        """The key without its app label."""
        return self.key.partition(":")[2] or self.key

    @property
    def confirmation(self) -> str:
        """The text to confirm before a launch; empty if the migration has none."""
        return confirmation_of(self.migration)

    def needs_confirmation(self, verb: Verb) -> bool:
        """Return whether the user must type the migration's name, because the action cannot be undone."""
        return verb.is_irreversible or (verb.name == "launch" and bool(self.confirmation))

    @property
    def version(self) -> str:
        """The attempt, stage and status, which a form sends back to detect that the migration has changed.

        The stage matters only while it asks a question. Otherwise it changes by itself.
        """
        if not self.record:
            return ""
        stage = f" {self.record.stage}" if self.status is Status.WAITING else ""
        return f"{self.record.attempt_id} {self.status}{stage}"

    @property
    def question(self) -> str:
        """What an operator must confirm if the migration is waiting; empty if it is not, or its file has changed."""
        return question_of(self.migration, self.record.stage) if self.status is Status.WAITING else ""

    def is_allowed(self) -> bool:
        """Return whether the migration may run on this database, as far as its file is known."""
        return self.migration is None or self.db_alias in self.migration.get_allowed_db_aliases()

    def has_record_now(self) -> bool:
        """Return whether the record exists in the database now, after an action."""
        return MigrationRecord.objects.using(self.db_alias).filter(key=self.key).exists()

    def allows(self, verb: Verb) -> bool:
        """Return whether the action is available now."""
        is_managed = self.record is None or self.record.is_managed
        has_file = self.migration is not None and self.is_allowed()
        return verb.is_available(self.status, has_file=has_file, is_managed=is_managed)

    def verbs(self, request: HttpRequest) -> list[Verb]:
        """Return the actions that the user may perform at some time. Launching has its own page."""
        return [verb for verb in VERBS.values() if verb.name != "launch" and may(request, verb.permission)]


def confirmation_of(migration: BaseMigration | None) -> str:
    """Return the migration's text to confirm before a launch; empty if it has none."""
    try:
        return migration.confirmation if migration else ""
    except MassMigrationError:  # the launch will raise it
        return ""


def find(key: str, db_alias: str, *, is_history: bool = False) -> Target:
    """Return the migration. Respond with 404 if it has neither a file nor a record nor, for its history, an event."""
    found = read_snapshot(key, db_alias)
    migration = store.by_key.get(key)
    error = str(store.errors[key]) if migration is None and key in store.errors else ""
    if found is None and migration is None and not error:
        events = Event.objects.using(db_alias).filter(key=key)
        if not (is_history and events.exists()):
            raise Http404(gettext("There is no such migration."))
    return Target(key=key, db_alias=db_alias, migration=migration, file_error=error, snapshot=found)


def statuses(keys: list[str], db_alias: str) -> dict[str, str]:
    """Return the statuses by key, of the migrations that have a record."""
    return dict(MigrationRecord.objects.using(db_alias).filter(key__in=keys).values_list("key", "status"))
