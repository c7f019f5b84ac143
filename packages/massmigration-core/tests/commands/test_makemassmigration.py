import importlib.util
import io

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.models import MigrationRecord


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The test app's folder of migrations, moved to an empty place."""
    monkeypatch.setattr(apps.get_app_config("testapp"), "path", str(tmp_path))
    yield tmp_path / "massmigrations"
    store.reset()


def make(*arguments, **options):
    stdout = io.StringIO()
    call_command("makemassmigration", *arguments, stdout=stdout, **options)
    return stdout.getvalue()


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Migration("testapp", path.stem)


def test_the_first_migration_makes_the_folder(folder):
    output = make("testapp", "fill_slugs")

    assert output == f"Created {folder / '0001_fill_slugs.py'}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["0001_fill_slugs.py", "__init__.py"]
    assert load(folder / "0001_fill_slugs.py").dependencies == ()


def test_the_next_one_depends_on_the_last(folder):
    make("testapp", "one")
    (folder / "0009_nine.py").touch()
    (folder / "0010_ten.py").touch()
    (folder / "helpers.py").touch()

    make("testapp", "after")

    assert load(folder / "0011_after.py").dependencies == [("testapp", "0010_ten")]


def test_the_number_of_a_deleted_file_is_not_used_again(db_alias, folder):
    MigrationRecord.objects.using(db_alias).create(key="testapp:0007_deleted", status="applied")
    MigrationRecord.objects.using(db_alias).create(key="auth:0009_other", status="applied")
    make("testapp", "one")

    assert make("testapp", "two") == f"Created {folder / '0009_two.py'}\n"
    assert load(folder / "0009_two.py").dependencies == [("testapp", "0008_one")]


@pytest.mark.parametrize("template", ["simple", "mapper", "custom"])
@pytest.mark.parametrize("count", [1, 2], ids=["first", "second"])
def test_every_template_makes_a_migration_that_imports(folder, template, count):
    for number in range(count):
        make("testapp", f"fill_{number}", template=template)

    migration = load(max(folder.glob("0*.py")))

    assert isinstance(migration, BaseMigration)
    assert migration.get_stages()


@pytest.mark.parametrize("template", ["simple", "mapper", "custom", "operations"])
def test_the_made_file_is_tidy(folder, template):
    make("testapp", "first")
    make("testapp", "py_fill_slugs_py", template=template)

    text = (folder / "0002_py_fill_slugs_py.py").read_text()

    assert text.startswith('"""Py fill slugs py."""\n\nfrom massmigration')
    assert text.endswith((")\n", "    ]\n"))
    assert "\n\n\n\n" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip() or len(line) > 88]
    compile(text, "made", "exec")


def test_a_template_of_the_users_own_is_filled_in(folder, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("# {{ app_label }} {{ name }} {{ title }}\n{{ dependencies }}")

    make("testapp", "its", template=str(own))

    assert (folder / "0001_its.py").read_text() == "# testapp 0001_its Its\n"


@pytest.fixture
def templates(tmp_path, settings):
    """A project's folder of templates for migrations, as django-mass-migration's documentation has it."""
    (tmp_path / "templates" / "migration_templates").mkdir(parents=True)
    (given,) = settings.TEMPLATES
    settings.TEMPLATES = [{**given, "DIRS": [str(tmp_path / "templates")]}]
    return tmp_path / "templates" / "migration_templates"


OLD_TEMPLATE = """from massmigration.migrations import SimpleMigration


class Migration(SimpleMigration):
    dependencies = [{% for dependency in dependencies %}
        ("{{dependency.0}}", "{{dependency.1}}"),{% endfor %}
    ]

    def operation(self, db_alias):
        raise NotImplementedError
"""


@pytest.mark.parametrize("name", ["ours", "mapper"])
def test_a_template_of_django_mass_migrations_folder_is_filled_in_as_before(folder, templates, name):
    (templates / f"{name}.py").write_text(OLD_TEMPLATE)

    make("testapp", "first", template=name)
    make("testapp", "second", template=name)

    assert type(load(folder / "0001_first.py")).__mro__[1].__name__ == "SimpleMigration"
    assert load(folder / "0001_first.py").dependencies == []
    assert load(folder / "0002_second.py").dependencies == [("testapp", "0001_first")]


def test_a_broken_template_of_that_folder_is_refused(folder, templates):
    (templates / "ours.py").write_text("{% nonsense %}")

    with pytest.raises(CommandError, match=r"migration_templates/ours\.py is not a valid Django template"):
        make("testapp", "first", template="ours")


@pytest.mark.parametrize("name", ["Slugs", "0002_slugs", "fill-slugs", "slugs.py", "../x", "", "ä"])
def test_a_bad_name_is_refused(folder, name):
    with pytest.raises(CommandError, match="is not a valid name for a migration"):
        make("testapp", name)

    assert not folder.exists()


def test_a_name_that_is_taken_is_refused(folder):
    make("testapp", "slugs")

    with pytest.raises(CommandError, match=r"0001_slugs\.py already exists"):
        make("testapp", "slugs")


def test_an_existing_file_is_never_overwritten(folder, monkeypatch):
    make("testapp", "slugs")
    before = (folder / "0001_slugs.py").read_text()
    monkeypatch.setattr("massmigration.management.scaffolding._existing", lambda folder: [])

    with pytest.raises(CommandError, match="exists already; nothing was written"):
        make("testapp", "slugs", template="simple")

    assert (folder / "0001_slugs.py").read_text() == before


def test_a_file_in_place_of_the_folder_is_refused(folder):
    folder.touch()

    with pytest.raises(CommandError, match="is not a folder"):
        make("testapp", "slugs")


def test_an_unknown_app_is_told_with_djangos_words_and_exit_code(folder):
    with pytest.raises(CommandError, match="No installed app with label 'nope'") as raised:
        make("nope", "slugs")

    assert raised.value.returncode == 2


def test_a_template_that_is_not_there_is_refused(folder):
    with pytest.raises(CommandError, match="Use mapper, simple, custom, operations, the path of a file, or"):
        make("testapp", "slugs", template="nope")

    assert not folder.exists()


def test_a_template_that_is_broken_is_refused(folder, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("{% nope %}")

    with pytest.raises(CommandError, match="The template is not a valid Django template"):
        make("testapp", "slugs", template=str(own))

    assert not folder.exists()


def test_what_was_made_is_found_at_once(folder):
    store.reset()
    assert store.of_app("testapp") == []

    make("testapp", "slugs")

    with pytest.raises(BadMigrationFile, match=r"testapp/massmigrations/0001_slugs\.py"):
        store.get("testapp:0001_slugs")  # its package was imported from another place


def test_the_template_of_operations_has_to_be_filled_in(folder):
    make("testapp", "fill_slugs", template="operations")

    migration = load(folder / "0001_fill_slugs.py")

    with pytest.raises(BadMigrationFile, match=r"there is no model 'testapp\.Model'"):
        migration.get_stages()


@pytest.mark.parametrize("last", ["0001_copy", "0002_happy", "0003_p", "0004_y_py"])
def test_a_name_that_ends_in_letters_of_py_is_depended_on_whole(folder, last):
    folder.mkdir()
    (folder / f"{last}.py").touch()

    make("testapp", "after")

    (made,) = folder.glob("*_after.py")
    assert load(made).dependencies == [("testapp", last)]


def test_a_dry_run_shows_the_file_and_writes_nothing(folder):
    output = make("testapp", "fill_slugs", dry_run=True)

    assert output.startswith(f'Would create {folder / "0001_fill_slugs.py"}:\n\n"""Fill slugs."""\n')
    assert "class Migration(MapperMigration):" in output
    assert not folder.exists()
