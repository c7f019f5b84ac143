"""The reference, which must have everything public, and nothing that no longer exists."""

import dataclasses
import importlib
import inspect
import re
from argparse import SUPPRESS
from functools import cache
from pathlib import Path

import pytest
from django.core.management import find_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db.models import Model
from django.dispatch import Signal

import massmigration
from massmigration import (
    api,
    conf,
    dryrun,
    enforcement,
    exceptions,
    gates,
    models,
    operations,
    progress,
    signals,
    testing,
    throttling,
    urls,
)
from massmigration.backends import base as backends
from massmigration.definitions import stages
from massmigration.dialects.base import Dialect
from massmigration.dialects.writer import BatchWriter
from massmigration.management.commands.massmigration import OTHERS
from massmigration.management.output import FAKED, MARKS
from massmigration.migrations import BaseMigration, MapperMigration, SimpleMigration
from massmigration.operations import DataOperation, OperationsMigration
from massmigration.states import Status
from massmigration.verbs import VERBS

SOURCE = Path(massmigration.__file__).parent
DOCS = Path(__file__).parents[4] / "docs"
OPERATIONS = {name for name in operations.__all__ if issubclass(getattr(operations, name), DataOperation)} - {
    "DataOperation"
}
COMMON = {"batch_size", "on_error"}
COMMANDS = find_commands(str(SOURCE / "management"))


@cache
def page(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def terms(text):
    """Return the documented terms: the code in the first cell of each row of a table."""
    cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {term for cell in cells for term in re.findall(r"`([^`]+)`", cell)}


def section(text, title):
    """Return the text between the heading with this title and the next heading of its level."""
    levels = re.findall(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert len(levels) == 1, f"Found {len(levels)} headings {title!r} on the page; there must be one."
    (level,) = levels
    after = re.split(rf"^#+ {re.escape(title)}$", text, flags=re.MULTILINE)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", after, flags=re.MULTILINE)[0]


def public(*classes):
    """Return the public names of these classes and of their instances."""
    instances = {name for cls in classes for name in re.findall(r"self\.([a-z]\w*) = ", inspect.getsource(cls))}
    return instances | {name for cls in classes for name in vars(cls) if not name.startswith("_")}


def subclasses(module, base):
    return {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def fields(cls):
    return {field.name for field in dataclasses.fields(cls)}


def names_of_arguments(command):
    """Return the options as they are given, and the positional arguments by name."""
    actions = command.create_parser("manage.py", "")._actions
    return {name for each in actions if each.help is not SUPPRESS for name in each.option_strings or [each.dest]}


def test_every_setting_is_explained():
    settings = {conf.PREFIX + name for name in vars(conf.Settings) if name.isupper()}

    assert {term for term in terms(page("reference/settings")) if term.isupper()} == settings


def test_every_exception_is_explained():
    names = {name for name, value in vars(exceptions).items() if inspect.isclass(value)} - {
        "CommandError",
        "ImproperlyConfigured",
    }

    assert terms(page("reference/exceptions")) == names


def test_every_check_is_explained():
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))

    assert terms(page("reference/checks")) == set(re.findall(r'"(massmigration\.[EW]\d{3})"', sources))


def test_every_signal_is_explained():
    names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}

    assert terms(section(page("reference/signals"), "Signals and logging").split("## ")[0]) == names


def test_every_function_of_the_api_is_explained():
    functions = {name for name in api.__all__ if inspect.isroutine(getattr(api, name))}

    tables = re.findall(r"^\| function \|.*\n(?:\|.*\n)+", page("reference/api"), re.MULTILINE)
    assert terms("".join(tables)) == functions


def test_every_function_of_the_api_is_exported():
    defined = {
        name for name, value in vars(api).items() if inspect.isfunction(value) and value.__module__ == api.__name__
    }

    assert {name for name in defined if not name.startswith("_")} <= set(api.__all__)


@pytest.mark.parametrize(
    ("module", "title"), [(dryrun, "Dry runs"), (progress, "Progress")], ids=["dry-run", "progress"]
)
def test_what_can_be_read_from_the_api_is_explained(module, title):
    text = section(page("reference/api"), title)
    classes = [
        cls for cls in vars(module).values() if dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
    ]
    if module is progress:  # its other classes are internal
        classes = [progress.Progress]

    missing = {name for cls in classes for name in public(cls) | fields(cls) if f"`{name}`" not in text}
    assert missing == set()


@pytest.mark.parametrize(
    ("cls", "titles"),
    [
        (BaseMigration, ["Every migration", "Properties and methods", "Unmanaged migrations"]),
        (MapperMigration, ["MapperMigration", "Unmanaged migrations"]),
        (SimpleMigration, ["SimpleMigration", "Unmanaged migrations"]),
    ],
    ids=["base", "mapper", "simple"],
)
def test_every_attribute_of_migrations_is_explained(cls, titles):
    found = set().union(*(terms(section(page("reference/migrations"), title)) for title in titles))
    hooks = {name for name, kind in inspect.get_annotations(cls).items() if kind.startswith("ClassVar")}

    inherited = {"get_stages", "backend_method"} if cls is not BaseMigration else set()
    assert public(cls) - hooks - inherited - found == set()


def test_no_attribute_of_migrations_is_explained_that_is_gone():
    explained = terms(section(page("reference/migrations"), "Every migration"))
    explained |= terms(section(page("reference/migrations"), "MapperMigration"))

    assert {name for name in explained if not hasattr(MapperMigration, name)} == set()


@pytest.mark.parametrize(
    "cls", [stages.Stage, stages.StageContext, *stages.Stage.__subclasses__()], ids=lambda cls: cls.__name__
)
def test_every_argument_of_a_stage_is_explained(cls):
    assert fields(cls) <= terms(section(page("reference/migrations"), "Stages"))


@pytest.mark.parametrize("name", [cls.__name__ for cls in stages.Stage.__subclasses__()])
def test_every_kind_of_stage_is_explained(name):
    assert f"`{name}`" in section(page("reference/migrations"), "Stages")


def test_every_operation_is_explained():
    titles = set(re.findall(r"^## (\w+)$", page("reference/operations"), re.MULTILINE))

    assert titles - {"OperationsMigration"} == OPERATIONS


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_argument_of_an_operation_is_explained(name):
    arguments = set(inspect.signature(getattr(operations, name)).parameters)

    assert terms(section(page("reference/operations"), name)) - {"key", "kind", "db_alias"} == arguments - COMMON


def test_the_template_of_a_file_names_every_operation():
    template = SOURCE / "templates" / "massmigration" / "migration_templates" / "operations.py-tpl"

    assert set(re.findall(r"\w+", template.read_text(encoding="utf-8"))) >= OPERATIONS


def test_every_page_is_explained():
    table = section(page("reference/pages"), "URLs and permissions")

    assert set(re.findall(r"`(massmigration_\w+)`", table)) == {each.name for each in urls.urlpatterns if each.name}


def test_no_table_of_the_reference_is_interrupted():
    interrupted = re.compile(r"^\|.*\n\n(?=\| `[^\n]*\n(?!\| ---))", re.MULTILINE)

    assert [path.name for path in DOCS.rglob("*.md") if interrupted.search(path.read_text(encoding="utf-8"))] == []


def test_what_all_operations_take_and_have_is_explained():
    text = section(page("reference/operations"), "OperationsMigration")

    assert terms(text) == COMMON | set(OperationsMigration.__annotations__)


@pytest.mark.parametrize(
    "name", sorted(name for name in subclasses(models, Model) if not getattr(models, name)._meta.abstract)
)
def test_every_field_of_a_record_is_explained(name):
    names = {field.name for field in getattr(models, name)._meta.concrete_fields}

    assert terms(section(page("reference/records"), name)) == names


def test_every_status_is_explained():
    assert terms(section(page("reference/records"), "Statuses")) == set(Status.values)


def test_every_throttle_is_explained():
    own = {
        name
        for name, value in vars(throttling).items()
        if inspect.isclass(value) and value.__module__ == throttling.__name__
    }
    names = own | fields(throttling.CompletedBatch) - {"find_model"} | {"tables"}

    assert {term.split("(")[0] for term in terms(page("reference/throttles"))} == names


def test_every_helper_for_tests_is_explained():
    assert terms(page("reference/testing")) == set(testing.__all__)


def test_everything_of_a_backend_is_explained():
    names = public(backends.BaseBackend) | fields(backends.AdminAction)

    assert terms(section(page("adding-a-backend"), "BaseBackend")) == names


@pytest.mark.parametrize(("title", "is_method"), [("Capabilities", False), ("Hooks", True)])
def test_every_hook_of_a_dialect_is_explained(title, is_method):
    attributes = {**vars(BatchWriter), **vars(Dialect)}
    names = {name for name, value in attributes.items() if not name.startswith("_") and callable(value) == is_method}
    text = section(page("adding-a-database"), title)
    helpers = set(re.findall(r"`(\w+)`", re.findall(r"^Helpers .*$", text, re.MULTILINE)[0])) if is_method else set()

    assert terms(text) | helpers == names


def test_every_command_is_explained():
    titles = re.findall(r"^## (\w+)$", page("reference/commands"), re.MULTILINE)

    assert set(titles) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_explained(name):
    text = section(page("reference/commands"), name)
    command = load_command_class("massmigration", name)

    arguments = names_of_arguments(command) - names_of_arguments(BaseCommand())
    others = set(VERBS) | set(OTHERS) | set(MARKS.values()) | {FAKED}
    assert terms(text) - others == arguments


def test_every_verb_of_the_command_is_explained():
    assert {*VERBS, *OTHERS} <= terms(section(page("reference/commands"), "massmigration"))


def test_every_mark_is_explained():
    assert {*MARKS.values(), FAKED} <= terms(section(page("reference/commands"), "showmassmigrations"))


def test_every_exit_code_is_explained():
    modules = [
        importlib.import_module(f"massmigration.management.{path.stem}")
        for path in (SOURCE / "management").glob("*.py")
    ]
    codes = {value for module in modules for name, value in vars(module).items() if name.startswith("EXIT_")}

    table = re.findall(r"^\| (\d+) \|", section(page("reference/commands"), "Exit codes"), re.MULTILINE)
    assert codes | {0, 1} == set(map(int, table))


def test_everything_of_enforcement_is_explained():
    names = set(enforcement.__all__) | public(enforcement.RequiresMigrationMixin) - {"as_view", "dispatch"}
    functions = (enforcement.requires_migration, enforcement.retry_until_migrated)
    arguments = set().union(*(inspect.signature(each).parameters for each in functions))

    assert terms(page("reference/enforcement")) == names | arguments


def test_every_argument_of_a_gate_is_explained():
    arguments = set(inspect.signature(gates.RequireMassMigration).parameters) - {"app_label", "name"}

    assert all(name in page("howto/gates") for name in arguments)
