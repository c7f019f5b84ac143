"""Copies of Django's project state that describe other tables than the models'."""

from __future__ import annotations

from typing import Any

from django.db.migrations.state import ModelState, ProjectState
from django.db.models import BigIntegerField, Model


def with_table(state: ProjectState, app_label: str, model_name: str, table: str) -> ProjectState:
    """Return a copy of the state in which the model has another table."""
    changed = state.clone()
    changed.alter_model_options(app_label, model_name, {"db_table": table})
    return changed


def without_children(state: ProjectState, app_label: str, model_name: str) -> ProjectState:
    """Return a copy of the state in which no other model refers to a model, nor by a table of its own.

    Django would change the columns of these models with the key of the model. Their foreign keys become integers.
    """
    target = f"{app_label}.{model_name}"
    models = {key: model.clone() for key, model in state.models.items()}
    children = {f"{label}.{name}" for (label, name), model in models.items() if _refers(model, target)}
    for (label, name), model in models.items():
        for field_name, field in list(model.fields.items()):
            remote: Any = getattr(field, "remote_field", None)
            if remote is None:
                continue
            if getattr(field, "many_to_many", False):
                is_own = f"{label}.{name}" == target
                if is_own or _label(remote.model) == target or _label(getattr(remote, "through", None)) in children:
                    del model.fields[field_name]
            elif f"{label}.{name}" != target and _label(remote.model) == target:
                model.fields[field_name] = BigIntegerField(primary_key=field.primary_key)
        model.bases = tuple(base for base in model.bases if _label(base) != target) or (Model,)
    return ProjectState(models=models, real_apps=state.real_apps)


def _refers(model: ModelState, target: str) -> bool:
    remotes = [getattr(field, "remote_field", None) for field in model.fields.values()]
    return any(remote is not None and _label(remote.model) == target for remote in remotes)


def _label(model: Any) -> str:
    """Return `app_label.model_name` of a model, or of its name."""
    return str(getattr(getattr(model, "_meta", None), "label_lower", model)).lower()
