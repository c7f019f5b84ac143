"""Shows failed objects, with links to their pages in the admin where there are such pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import router
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from massmigration import keys
from massmigration.definitions.stages import MappedStage
from massmigration.models import FailedObject
from massmigration.views import frame, words
from massmigration.views.targets import Target


class Links:
    """To the objects of one migration."""

    def __init__(self, request: HttpRequest, target: Target) -> None:
        self._request = request
        self._target = target
        self._models: dict[int, Any] = {}

    def shown(self, objects: Iterable[FailedObject]) -> list[dict[str, Any]]:
        """For the template."""
        return [
            {"failed": each, "pk": words.value_of(each.object_pk), "address": self._address(each)} for each in objects
        ]

    def _address(self, failed: FailedObject) -> str:
        if failed.object_pk is None or len(failed.object_pk) != 1:
            return ""
        if failed.stage not in self._models:
            self._models[failed.stage] = self._model(failed.stage)
        model = self._models[failed.stage]
        if model is None:
            return ""
        from django.contrib.admin.utils import quote  # the admin is installed, or there were no model

        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        try:
            (value,) = keys.decode(failed.object_pk)
            return reverse(name, args=[quote(value)])
        except (NoReverseMatch, ValueError):
            return ""

    def _model(self, stage: int) -> Any:
        """None unless the admin shows the objects, of this very database, to who asks."""
        if not frame.has_admin() or self._target.migration is None:
            return None
        from django.contrib import admin  # its models need the app

        try:
            found = self._target.migration.get_stages()[stage]
            model = found.get_queryset(self._target.db_alias).model if isinstance(found, MappedStage) else None
        except Exception:  # the file may have changed since; the page is not the place to hear of it
            return None
        model_admin = admin.site._registry.get(model) if model else None
        if model is None or model_admin is None or router.db_for_read(model) != self._target.db_alias:
            return None
        return model if model_admin.has_view_or_change_permission(self._request) else None
