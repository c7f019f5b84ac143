import io

import pytest
from django.core.management import CommandError, call_command

from massmigration import checks
from massmigration.enforcement import registry, requires_migration
from massmigration.loader import store
from testsupport import gate_project
from testsupport.gate_project import GATED, KEY

GATE = GATED.operations[0]


@pytest.fixture
def project(db_alias):
    yield from gate_project.project(db_alias)


def needing():
    """Do nothing. It is defined at the top level of a module, so that its dotted name leads to it."""


def ids(messages):
    return [message.id for message in messages]


@pytest.fixture
def gated(settings):
    settings.INSTALLED_APPS = ["massmigration", "testsupport.gate_app"]
    store.reset()
    yield
    store.reset()


def test_all_is_well(gated):
    assert checks.check_requirers() == []
    assert registry.by_key() == {KEY: ["schema migration gated.0003_cents_not_null"]}


def test_a_gate_for_a_migration_that_does_not_exist_is_an_error(gated, monkeypatch):
    monkeypatch.setattr(GATE, "name", "0001_typo")

    (found,) = checks.check_requirers()

    assert found.id == "massmigration.E010"
    assert found.msg == (
        "schema migration gated.0003_cents_not_null requires mass migration 'gated:0001_typo', which has no file."
    )


def test_a_gate_that_could_not_run_it_inline_is_an_error(gated, monkeypatch):
    monkeypatch.setattr(GATE, "run_inline_up_to", 10)

    assert ids(checks.check_requirers()) == ["massmigration.E011"]
    monkeypatch.setattr(GATED, "atomic", False)
    assert checks.check_requirers() == []


def test_code_that_requires_a_migration_that_does_not_exist_is_a_warning():
    requires_migration("testapp:0001_typo")(needing)

    (found,) = checks.check_requirers()

    assert found.id == "massmigration.W006"
    assert f"{__name__}.needing requires mass migration 'testapp:0001_typo'" in found.msg


def test_check_deploy_lists_what_is_outstanding_and_what_requires_it(project):
    project.migrate("massmigration")
    requires_migration(KEY)(needing)

    found = checks.check_outstanding(databases=[project.db_alias])

    assert ids(found) == ["massmigration.W007"] * 2
    assert found[0].msg == (
        f"Mass migration '{KEY}' has not been run on database '{project.db_alias}'; it is required by "
        f"{__name__}.needing, schema migration gated.0003_cents_not_null."
    )
    assert found[0].hint == f"Run: manage.py massmigrate gated 0001_cents --database {project.db_alias}"


def test_check_deploy_is_content_when_all_is_applied(project):
    project.migrate()

    assert checks.check_outstanding(databases=[project.db_alias]) == []


def test_the_command_shows_them(project, settings):
    settings.SECRET_KEY = "x" * 60
    with pytest.raises(CommandError, match=r"massmigration\.W007"):
        call_command(
            "check", deploy=True, tags=["massmigration"], databases=[project.db_alias], fail_level="WARNING",
            stdout=io.StringIO(), stderr=io.StringIO(),
        )  # fmt: skip


def test_a_database_out_of_reach_is_a_warning(monkeypatch):
    def refuse(db_alias):
        from django.db import OperationalError

        raise OperationalError("Nobody is there.")

    monkeypatch.setattr(checks.tables, "exist", refuse)

    (found,) = checks.check_outstanding(databases=["default"])

    assert (found.id, "Nobody is there." in found.msg) == ("massmigration.W008", True)
