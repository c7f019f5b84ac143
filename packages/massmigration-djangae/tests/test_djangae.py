"""A djangae project, installed by the extra, through App Engine targets on the emulator."""

import pytest
from django.conf import settings

from testsupport.cloudtasks.djangae import NAMES, DjangaeProject
from testsupport.v03_versions import other_database

pytestmark = pytest.mark.slow

ALIAS = "postgresql"
ROWS = 1_000


@pytest.fixture(scope="module")
def project(django_db_setup):
    with other_database(ALIAS):
        given = settings.DATABASES[ALIAS]
        project = DjangaeProject({name: given[name] for name in NAMES if name in given})
        try:
            project.drive("prepare", ROWS)
            project.start()
            yield project
        finally:
            project.stop()


def run(project, key):
    assert project.drive("launch", key) == ""
    return project.drive("wait_until_ended", key)


def test_a_project_of_djangaes_runs_its_migrations_through_app_engine_targets(project):
    assert "System check identified no issues" in project.manage("check")

    mapper, simple = run(project, "shop:0001_slugs"), run(project, "shop:0002_once")

    counts = project.drive("counts")
    assert (mapper["status"], simple["status"]) == ("applied", "applied"), (mapper, simple)
    assert (counts["items"], counts["calls"], counts["once"]) == (ROWS, [[1, ROWS]], 1)
    assert counts["verbs"]["applied"] == 2
