import os
import subprocess
import sys
from textwrap import dedent

import django.test.utils
import pytest

from massmigration import conf
from testsupport.threads import PATIENCE

pytestmark = pytest.mark.slow

SETTINGS = """
SECRET_KEY = "only for tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}
INSTALLED_APPS = ["massmigration", "shop"]
MASSMIGRATION_APPLY_ON_FRESH_DATABASE = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

MIGRATION = """
from massmigration.migrations import SimpleMigration

class Migration(SimpleMigration):
    def operation(self, db_alias):
        pass
"""

CODE = """
from django.http import HttpResponse
from django.views import View
from massmigration.enforcement import RequiresMigrationMixin, requires_migration, retry_until_migrated

@requires_migration("shop:0001_once")
def relaxed():
    return "ran"

@requires_migration("shop:0001_once", skip_in_tests=False)
def strict():
    return "ran"

class Relaxed(RequiresMigrationMixin, View):
    required_migrations = ["shop:0001_once"]

    def get(self, request):
        return HttpResponse("ran")

class Strict(Relaxed):
    skip_in_tests = False

    async def get(self, request):
        return HttpResponse("ran")

relaxed_task = retry_until_migrated("shop:0001_once")(str.upper)
strict_task = retry_until_migrated("shop:0001_once", skip_in_tests=False)(str.upper)
relaxed_template = '{% load massmigration %}{% if "shop:0001_once"|migrated %}ran{% endif %}'
strict_template = '{% load massmigration %}{% is_migrated "shop:0001_once" skip_in_tests=False %}'
"""

TESTS = """
from asgiref.sync import async_to_sync, sync_to_async
from django.test import TestCase
from massmigration.exceptions import RequiredMigrationNotApplied
from massmigration.models import MigrationRecord
from django.template import Context, Engine
from django.test import RequestFactory
from shop.code import *

def visit(view):
    answer = view.as_view()(RequestFactory().get("/"))
    return (async_to_sync(wait)(answer) if view.view_is_async else answer).status_code

async def wait(answer):
    return await answer

def render(source):
    libraries = {"massmigration": "massmigration.templatetags.massmigration"}
    return Engine(libraries=libraries).from_string(source).render(Context())

class Together:
    def test_all_forms_are_relaxed(self):
        assert (visit(Relaxed), relaxed_task("ran"), render(relaxed_template)) == (200, "RAN", "ran")

    def test_all_forms_can_be_strict(self):
        assert (visit(Strict), render(strict_template)) == (503, "False")
        with self.assertRaises(RequiredMigrationNotApplied):
            strict_task("ran")
        MigrationRecord.objects.create(key="shop:0001_once", status="applied")
        assert (visit(Strict), strict_task("ran"), render(strict_template)) == (200, "RAN", "True")

    def test_code_runs_without_the_record(self):
        assert relaxed() == "ran"

    def test_code_that_is_strict_in_tests_does_not(self):
        with self.assertRaises(RequiredMigrationNotApplied):
            strict()

    def test_code_that_is_strict_runs_with_the_record(self):
        MigrationRecord.objects.create(key="shop:0001_once", status="applied")
        assert async_to_sync(sync_to_async(strict))() == "ran"

class FirstTest(Together, TestCase):
    pass

class SecondTest(Together, TestCase):
    pass
"""

ALONE = """
from shop.code import relaxed

def test_code_runs_without_the_record():
    assert relaxed() == "ran"
"""

SCRIPT = """
import django
from django.conf import settings
from django.test.utils import get_runner

if __name__ == "__main__":
    django.setup()
    raise SystemExit(get_runner(settings)(verbosity=0).run_tests([]))
"""

STARTUP = """
from django.apps import AppConfig

class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        from massmigration.conf import is_running_tests
        print("ready in tests:", is_running_tests())
"""

DJANGO = [sys.executable, "-m", "django"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "shop"]


@pytest.fixture
def site(tmp_path):
    """A small project, and a function that runs a command in it, apart from this run of pytest."""
    files = {
        "settings.py": SETTINGS,
        "pytest.ini": "[pytest]\npython_files = tests.py alone.py\n",
        "runtests.py": SCRIPT,
        "shop/__init__.py": "",
        "shop/apps.py": STARTUP,
        "shop/code.py": CODE,
        "shop/tests.py": TESTS,
        "shop/massmigrations/__init__.py": "",
        "shop/massmigrations/0001_once.py": MIGRATION,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**kept, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}

    def run(*command, **extra):
        env = {**environment, **extra}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return tmp_path, run


@pytest.mark.parametrize(
    ("command", "summary"),
    [
        pytest.param([*DJANGO, "test", "-v0"], "OK", id="django"),
        pytest.param([*DJANGO, "test", "--parallel", "2"], "OK", id="django in parallel"),
        pytest.param([sys.executable, "runtests.py"], "OK", id="a script that calls Django's runner"),
        pytest.param([*PYTEST, "-p", "no:xdist"], "10 passed", id="pytest-django"),
        pytest.param([*PYTEST, "-n", "2"], "10 passed", id="pytest-xdist"),
    ],
)
def test_code_is_skipped_and_stays_strict_under(site, command, summary):
    _, run = site

    code, output = run(*command)

    assert (code, summary in output) == (0, True), output


def test_plain_pytest_is_recognised(site):
    folder, run = site
    (folder / "shop/tests.py").unlink()
    (folder / "shop/alone.py").write_text("import django\n\ndjango.setup()\n" + ALONE)

    code, output = run(*PYTEST, "-p", "no:django")

    assert (code, "1 passed" in output) == (0, True), output


def test_a_process_that_runs_no_tests_is_not_taken_for_one(site):
    _, run = site
    text = "import django; django.setup(); from shop.code import relaxed; relaxed()"

    _, output = run(sys.executable, "-c", text, "test")

    assert "Run: manage.py migrate --database default" in output
    assert "requires migration 'shop:0001_once'" in output


def test_a_process_that_has_imported_pytest_is_not_taken_for_one(site):
    _, run = site

    code, output = run(
        sys.executable, "-c", "import pytest, django.test, massmigration.conf as u; print(u.is_running_tests())"
    )

    assert (code, output.strip()) == (0, "False")


def test_the_test_command_counts_while_apps_are_loaded(site):
    _, run = site

    _, testing = run(*DJANGO, "test", "-v0")
    _, checking = run(*DJANGO, "check", "--tag", "massmigration")

    assert "ready in tests: True" in testing
    assert "ready in tests: False" in checking


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["manage.py", "test"], True),
        (["./bin/manage.py", "test", "shop"], True),
        (["venv/bin/django-admin", "test"], True),
        (["site-packages/django/__main__.py", "test"], True),
        (["manage.py", "runserver"], False),
        (["manage.py", "massmigrate", "test"], False),
        (["gunicorn", "test"], False),
        (["celery/__main__.py", "test"], False),
        (["manage.py"], False),
        ([], False),
    ],
    ids=str,
)
def test_only_djangos_own_test_command_counts(monkeypatch, argv, expected):
    monkeypatch.setattr(conf, "_is_pytest", lambda: False)
    monkeypatch.setattr(conf, "_is_test_environment", lambda: False)
    monkeypatch.setattr(sys, "argv", argv)

    assert conf.is_running_tests() is expected


def test_djangos_own_mark_is_where_it_is_looked_for():
    assert hasattr(django.test.utils._TestState, "saved_data")
    assert conf._is_test_environment()
