"""The verbs as buttons: what each is called, and what it asks."""

from __future__ import annotations

import dataclasses
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from massmigration.verbs import VERBS, Verb
from massmigration.views.targets import Target

LABELS = {
    "launch": _("Start"),
    "pause": _("Pause"),
    "resume": _("Resume"),
    "cancel": _("Cancel"),
    "retry": _("Retry"),
    "restart": _("Restart"),
    "fake": _("Mark as applied"),
    "forget": _("Forget"),
}

QUESTIONS = {
    "launch": _("Starts it in the background."),
    "pause": _("Stops at the end of the batch that is being worked at. Resume goes on from there."),
    "resume": _("Goes on where it was paused."),
    "cancel": _("Gives up at the end of the batch. What is done stays done; a retry goes on from there."),
    "retry": _("Goes on where it stopped, and does all failed objects again. What is done is not done twice."),
    "restart": _("Begins again from the first row. Rows that are done already are done a second time."),
    "fake": _("Says that it is applied without running it. Code and migrations that need it will take it as done."),
    "forget": _(
        "Deletes the record, its shards and its failed objects, as if it had never been launched. "
        "Its history stays; the data is not touched."
    ),
}

DONE = {
    "launch": _("%(key)s was started on %(db)s."),
    "pause": _("%(key)s is paused on %(db)s. Batches that are being worked at still end."),
    "resume": _("%(key)s goes on, on %(db)s."),
    "cancel": _("%(key)s was cancelled on %(db)s."),
    "retry": _("%(key)s goes on where it stopped, on %(db)s."),
    "restart": _("%(key)s begins again, on %(db)s."),
    "fake": _("%(key)s was marked as applied on %(db)s."),
    "forget": _("%(key)s was forgotten on %(db)s."),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Button:
    """A verb for one migration."""

    verb: Verb
    is_shown: bool

    asks: bool
    """Is the migration's name to be typed first?"""

    warning: str = ""
    """What the migration itself wants confirmed."""

    @property
    def label(self) -> Any:
        return LABELS[self.verb.name]

    @property
    def question(self) -> Any:
        return QUESTIONS[self.verb.name]


def of_target(request: HttpRequest, target: Target) -> list[Button]:
    """All that who asks may ever press; those that have no meaning now are not shown."""
    return [_of(verb, target) for verb in target.verbs(request)]


def of_verb(name: str, target: Target) -> Button:
    """That of one verb."""
    return _of(VERBS[name], target)


def _of(verb: Verb, target: Target) -> Button:
    warning = target.confirmation if verb.sends and target.asks(verb) else ""
    return Button(verb=verb, is_shown=target.suits(verb), asks=target.asks(verb), warning=warning)
