"""The file of a new migration: its name, its contents and its creation."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connections
from django.template import Context, Engine, TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template

from massmigration.loader import FOLDER, is_valid_name, store
from massmigration.models import MigrationRecord

TEMPLATES = Path(__file__).parent.parent / "templates" / "massmigration" / "migration_templates"
KINDS = ("mapper", "simple", "custom", "operations")
"""The templates that come with the package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """A file to write."""

    path: Path
    source: str


def create(config: AppConfig, name: str, template: str) -> Path:
    """Write the next migration of the app and return its path. Never overwrite a file."""
    made = draft(config, name, template)
    made.path.parent.mkdir(exist_ok=True)
    (made.path.parent / "__init__.py").touch()
    try:
        with made.path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(made.source)
    except FileExistsError:
        raise CommandError(f"{made.path} exists already; nothing was written.") from None
    store.reset()
    return made.path


def draft(config: AppConfig, name: str, template: str) -> Draft:
    """Return the file that `create` would write."""
    own = _own_template(template)
    text = "" if own else _template_text(template)
    _check_name(name)
    folder = Path(config.path) / FOLDER
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} exists but is not a folder. Move or rename it.")
    existing = sorted(_existing(folder), key=lambda each: (_number(each), each))
    _check_new(name, existing, folder)
    last = max(map(_number, [*existing, *_recorded(config.label)]), default=0)
    stem = f"{last + 1:04d}_{name}"
    previous = existing[-1] if existing else None
    source = _render_own(own, config.label, stem, previous) if own else _render(text, config.label, stem, previous)
    return Draft(path=folder / f"{stem}.py", source=source)


def _existing(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.py") if is_valid_name(path.stem)]


def _recorded(app_label: str) -> list[str]:
    """Return the names of the app's migrations that have records, as far as the databases can be read."""
    found: list[str] = []
    for db_alias in connections:
        with contextlib.suppress(Exception):  # creating a file does not need a database
            records = MigrationRecord.objects.using(db_alias).filter(key__startswith=f"{app_label}:")
            found += [key.partition(":")[2] for key in records.values_list("key", flat=True)]
    return [name for name in found if is_valid_name(name)]


def _number(stem: str) -> int:
    return int(stem.partition("_")[0])


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        raise CommandError(
            f"{name!r} is not a valid name for a migration. Use lower-case letters, digits and underscores, as in "
            "'fill_slugs'. The number is added automatically."
        )


def _check_new(name: str, existing: list[str], folder: Path) -> None:
    for stem in existing:
        if stem.partition("_")[2] == name:
            raise CommandError(f"{folder / stem}.py already exists. Choose another name than {name!r}.")


def _own_template(template: str) -> Any:
    """Return the project's own template, where django-mass-migration looked for it, or None."""
    try:
        return get_template(f"migration_templates/{template}.py")
    except (TemplateDoesNotExist, ImproperlyConfigured):
        return None
    except TemplateSyntaxError as error:
        raise CommandError(f"migration_templates/{template}.py is not a valid Django template: {error}") from error


def _render_own(template: Any, app_label: str, stem: str, previous: str | None) -> str:
    """Render a project's own template with the context of django-mass-migration: `dependencies` is a list of pairs."""
    dependencies = [(app_label, previous)] if previous else []
    return str(template.render({"app_label": app_label, "name": stem, "dependencies": dependencies}))


def _template_text(template: str) -> str:
    path = TEMPLATES / f"{template}.py-tpl" if template in KINDS else Path(template)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"The template {template!r} cannot be read ({error}). Use {', '.join(KINDS)}, the path of a file, or the "
            "name, without .py, of a template in a folder migration_templates of your templates."
        ) from error


def _render(text: str, app_label: str, stem: str, last: str | None) -> str:
    """Render a template with `{{ title }}`, `{{ name }}`, `{{ app_label }}` and `{{ dependencies }}`."""
    lines = ["", "    dependencies = [", f'        ("{app_label}", "{last}"),', "    ]", ""] if last else [""]
    values = {
        "app_label": app_label,
        "name": stem,
        "title": stem.partition("_")[2].strip("_").replace("_", " ").capitalize(),
        "dependencies": "\n".join(lines).removesuffix("\n") if last is None else "\n".join(lines),
    }
    try:
        return Engine().from_string(text).render(Context(values, autoescape=False))
    except TemplateSyntaxError as error:
        raise CommandError(f"The template is not a valid Django template: {error}") from error
