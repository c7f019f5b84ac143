"""The tests that run on MariaDB and not on MySQL: those to which only the ORM's ordinary statements matter.

What differs between the two servers is in `massmigration.dialects`, in their locks, their planner, their error numbers
and their drivers. The tests of all this run on both, as do all tests of kills, freezes and lost connections. The
others would repeat on MySQL what they have shown on MariaDB, and take minutes. `--all-on-mysql` runs them.
"""

from __future__ import annotations

CORE = "massmigration-core/tests"
SCHEMA = "massmigration-schema/tests"

ON_MARIADB_ALONE = {
    f"{CORE}/backends/": "queues and threads; the database holds the records only",
    f"{CORE}/commands/": "arguments, output and exit codes",
    f"{CORE}/compat/": "names and records of django-mass-migration, which are read through the ORM",
    f"{CORE}/definitions/": "attributes of migration classes",
    f"{CORE}/documents/": "conditions that are evaluated in Python, compared with the ORM's",
    f"{CORE}/enforcement/": "decorators around functions and views",
    f"{CORE}/pages/": "HTML, permissions and translations",
    f"{CORE}/executor/test_batch_duration.py": "a clock that the test moves",
    f"{CORE}/executor/test_batch_size.py": "sums",
    f"{CORE}/executor/test_failure_policy.py": "counts of failed objects",
    f"{CORE}/executor/test_failures.py": "exceptions of the user's code",
    f"{CORE}/executor/test_objects": "objects in memory; what is written is in dialects/test_writers.py",
    f"{CORE}/executor/test_throttle.py": "waits that a clock of the test ends",
    f"{CORE}/operations/test_schema_migrations.py": "Django's migrate",
    f"{CORE}/operations/test_validation.py": "messages of checks",
    f"{CORE}/paging/test_hidden_rows.py": "managers",
    f"{CORE}/paging/test_keys_and_querysets.py": "querysets of the ORM; keys are in dialects/test_writers_keys.py",
    f"{CORE}/recorder/": "conditional updates by the ORM; faults/test_races_of_operators.py has their races",
    f"{CORE}/test_api_status.py": "the fields of a status",
    f"{CORE}/test_checks": "messages of checks",
    f"{CORE}/test_fresh_database.py": "Django's migrate",
    f"{CORE}/test_gates.py": "Django's migrate",
    f"{CORE}/test_jobs.py": "JSON",
    f"{CORE}/test_loader.py": "files",
    f"{CORE}/test_models.py": "definitions of models",
    f"{CORE}/test_progress": "sums over records, and their texts",
    f"{CORE}/test_record_cache.py": "a cache in memory",
    f"{CORE}/test_redaction.py": "texts",
    f"{CORE}/test_signals.py": "receivers",
    f"{CORE}/test_text.py": "texts",
    f"{CORE}/throttling/test_throttles.py": "callables",
    f"{CORE}/test_verbs.py": "a table of names",
    f"{CORE}/test_worker.py": "calls of the engine by a queue",
    "massmigration-celery/tests/test_backend.py": "messages of Celery",
    "massmigration-celery/tests/test_eager.py": "messages of Celery",
    "massmigration-djangae/tests/": "HTTP requests of Cloud Tasks",
    f"{SCHEMA}/commands/": "arguments, output and exit codes",
    f"{SCHEMA}/pages/": "HTML and permissions",
    f"{SCHEMA}/test_change.py": "stages and the ledger, through the ORM; their statements are in dialects/",
    f"{SCHEMA}/test_derivation.py": "operations of Django; no statement is executed",
    "massmigration-rq/tests/test_actions.py": "jobs of RQ",
    "massmigration-rq/tests/test_backend.py": "jobs of RQ",
}
"""The beginnings of node ids, and what the tests there are about."""

ON_MYSQL_TOO = (
    f"{CORE}/commands/test_massmigrate_processes.py::test_a_killed",
    f"{CORE}/enforcement/test_objects.py",
    f"{CORE}/executor/test_throttle.py::test_a_limit_is_kept_by_doubles_kills_and_healing",
    f"{CORE}/operations/test_schema_migrations.py::test_after_a_kill",
    f"{CORE}/test_checks_servers.py",
    f"{SCHEMA}/commands/test_verbs.py::test_a_change",
    f"{SCHEMA}/commands/test_verbs.py::test_migrate",
    f"{SCHEMA}/test_change.py::test_a_change_is_made",
    f"{SCHEMA}/test_change.py::test_a_cleanup",
    f"{SCHEMA}/test_change.py::test_a_missing_trigger",
    f"{SCHEMA}/test_change.py::test_a_row_that_does_not_fit",
    f"{SCHEMA}/test_change.py::test_an_abort",
    f"{SCHEMA}/test_change.py::test_rows_that_differ",
    f"{SCHEMA}/test_change.py::test_writes_while_it_waits",
)
"""The exceptions: isolation, server settings, kills, and each thing that is done with two tables and triggers."""


def is_on_mariadb_alone(node_id: str) -> bool:
    """Return whether a test runs on MariaDB and not on MySQL."""
    name = node_id.removeprefix("packages/")
    return name.startswith(tuple(ON_MARIADB_ALONE)) and not name.startswith(ON_MYSQL_TOO)
