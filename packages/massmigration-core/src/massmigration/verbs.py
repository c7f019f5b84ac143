"""The operator actions on one migration, as a table: their functions, their words and the statuses that allow them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext_lazy as _

from massmigration import api
from massmigration.recorder import attempts
from massmigration.states import Status, sources_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """An operator action. Its function in `api` decides whether to refuse it; the rest is for commands and pages."""

    name: str
    call: Callable[..., None]
    """The function in `api`. Takes the key, the database alias and `actor=`."""

    permission: str
    """`run`, `control` or `forget`: the prefix of the required permission on `MigrationRecord`."""

    sources: frozenset[Status | None]
    """The statuses that allow the action; None means that there is no record."""

    needs_file: bool = True
    """Whether the migration's file must be usable."""

    needs_jobs: bool = False
    """Whether the action is only for migrations that the engine runs, not for unmanaged ones."""

    is_irreversible: bool = False
    """Whether to ask for confirmation, because the action cannot be undone."""

    continues_work: bool = False
    """Whether the migration runs afterwards."""

    participle: str
    """The word for a migration afterwards, as in "shop:0001_slugs paused". Commands are not translated."""

    description: str
    """The help text of the command."""

    label: Any
    """The text of a button, translated."""

    question: Any
    """What the action does, translated, for the user who confirms it."""

    success_message: Any
    """The message afterwards, translated, with `%(key)s` and `%(db)s`."""

    def is_available(self, status: Status | None, *, has_file: bool = True, is_managed: bool = True) -> bool:
        """Return whether to offer the action for a migration with this status. `call` may still refuse it."""
        return status in self.sources and (has_file or not self.needs_file) and (is_managed or not self.needs_jobs)


_TABLE = (
    Verb(
        name="launch",
        call=api.launch,
        permission="run",
        sources=frozenset({None}),
        continues_work=True,
        participle="launched",
        description="start a migration that was never launched",
        label=_("Launch"),
        question=_("Starts the migration in the background."),
        success_message=_("%(key)s was launched on %(db)s."),
    ),
    Verb(
        name="pause",
        call=api.pause,
        permission="control",
        sources=frozenset(sources_of(Status.PAUSED)),
        needs_file=False,
        needs_jobs=True,
        participle="paused",
        description="stop after the current batch; resume continues from there",
        label=_("Pause"),
        question=_("Stops after the current batch. Resume continues from there."),
        success_message=_("%(key)s is paused on %(db)s. Batches that have started will still finish."),
    ),
    Verb(
        name="resume",
        call=api.resume,
        permission="control",
        sources=frozenset({Status.PAUSED}),
        needs_jobs=True,
        continues_work=True,
        participle="resumed",
        description="continue a paused migration",
        label=_("Resume"),
        question=_("Continues the migration from where it was paused."),
        success_message=_("%(key)s was resumed on %(db)s."),
    ),
    Verb(
        name="proceed",
        call=api.proceed,
        permission="run",
        sources=frozenset({Status.WAITING}),
        needs_jobs=True,
        is_irreversible=True,
        continues_work=True,
        participle="proceeds",
        description="confirm the question of a waiting migration, which then continues",
        label=_("Proceed"),
        question=_("Confirms the question. The migration then continues with its next stage."),
        success_message=_("%(key)s proceeds on %(db)s."),
    ),
    Verb(
        name="cancel",
        call=api.cancel,
        permission="control",
        sources=frozenset(sources_of(Status.CANCELLED)),
        needs_file=False,
        participle="cancelled",
        description="end the attempt after the current batch; retry continues from there",
        label=_("Cancel"),
        question=_("Ends the attempt after the current batch. Completed work is kept; Retry continues from there."),
        success_message=_("%(key)s was cancelled on %(db)s."),
    ),
    Verb(
        name="retry",
        call=api.retry,
        permission="run",
        sources=frozenset(attempts.RETRIED),
        continues_work=True,
        participle="retried",
        description="continue a failed or cancelled migration from where it stopped, including its failed objects",
        label=_("Retry"),
        question=_(
            "Continues the migration from where it stopped, and processes its failed objects again. "
            "Completed work is not repeated."
        ),
        success_message=_("%(key)s continues from where it stopped on %(db)s."),
    ),
    Verb(
        name="restart",
        call=api.restart,
        permission="run",
        sources=frozenset(attempts.RETRIED),
        is_irreversible=True,
        continues_work=True,
        participle="restarted",
        description="process a failed or cancelled migration again from the first row",
        label=_("Restart"),
        question=_("Starts again from the first row. Rows that are already done are processed a second time."),
        success_message=_("%(key)s was restarted from the first row on %(db)s."),
    ),
    Verb(
        name="fake",
        call=api.fake,
        permission="run",
        sources=frozenset(attempts.FAKED | {None}),
        is_irreversible=True,
        participle="marked as applied",
        description="mark a migration as applied without running it",
        label=_("Mark as applied"),
        question=_("Marks the migration as applied without running it. Code and migrations that require it then run."),
        success_message=_("%(key)s was marked as applied on %(db)s."),
    ),
    Verb(
        name="forget",
        call=api.forget,
        permission="forget",
        sources=frozenset(attempts.FORGOTTEN),
        needs_file=False,
        is_irreversible=True,
        participle="forgotten",
        description="delete the record, as if the migration had never been launched; its events are kept",
        label=_("Forget"),
        question=_(
            "Deletes the record with its shards and failed objects, as if the migration had never been launched. "
            "Its history is kept, and your data is not changed."
        ),
        success_message=_("%(key)s was forgotten on %(db)s."),
    ),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _TABLE}
"""The operator actions by name, in the order in which pages and commands list them."""
