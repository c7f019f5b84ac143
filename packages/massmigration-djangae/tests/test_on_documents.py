"""Runs on Datastore and Firestore: on the emulators, through gcloudc, in a process of a djangae project."""

import subprocess

import pytest

from testsupport.cloudtasks.djangae import PROJECT, interpreter
from testsupport.documents import DURATIONS, KINDS, Project, ask, end
from testsupport.services import Unavailable

pytestmark = pytest.mark.slow

KEYS = {"integers": "Item", "names": "Named", "uuids": "Token"}


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    try:
        project = Project(request.param)
    except Unavailable as error:
        pytest.skip(str(error))  # no package registry has it
    yield project
    project.stop()


@pytest.fixture
def project(server):
    server.empty()
    return server


@pytest.mark.parametrize("kind", KEYS.values(), ids=KEYS)
def test_every_object_is_done_once_whatever_its_key(project, kind):
    project.ask("make", kind, 300)
    project.ask("register", kind, batch_size=50)

    found = project.ask("launch")

    assert (found["status"], found["calls"]) == ("applied", [[1, 300]])
    assert (len(found["shards"]), sum(found["shards"])) == (3, 300)


@pytest.mark.parametrize("leaving", [0, 250], ids=["all", "those at the end"])
def test_rows_may_leave_the_queryset_while_it_is_cut(project, leaving):
    project.ask("make", "Named", 300)
    project.ask("register", "Named", only="no slug")

    found = project.ask("launch_while_rows_leave", leaving)

    assert (found["status"], sum(found["shards"])) == ("applied", leaving)


@pytest.mark.parametrize("form", ["operation", "operation_batch"])
def test_objects_that_cannot_be_looked_for_are_not_taken_for_those_before(project, form):
    project.ask("make", "Token", 240)
    project.ask("poison", "Token", "5zz-no-uuid")
    project.ask("register", "Token", form=form, on_error="continue", batch_size=10)

    found = project.ask("launch")

    assert (found["status"], found["failed"]) == ("failed", [None])
    assert "badly formed hexadecimal UUID string" in found["error"]
    assert found["calls"] == [[1, sum(found["shards"])]]
    # The failed run may have stopped other shards before their end: the retry continues them, and repeats no object.
    found = project.ask("retry")
    assert found["calls"] == [[1, sum(found["shards"])]]


def migrate(project):
    command = [interpreter(), "manage.py", "migrate"]
    return subprocess.run(command, cwd=PROJECT, env=project.environ, capture_output=True, text=True)


def test_migrate_says_that_it_is_not_needed_before_it_fails(project):
    ended = [migrate(project), migrate(project)]

    warning = "(massmigration.W011) Mass migrations do not need 'migrate' on database 'default'"
    assert all(warning in end.stderr for end in ended)
    if project.kind == "datastore":
        assert "Kind queries are not supported" in ended[0].stderr.rpartition("W011")[2]
    else:
        assert "Applying massmigration.0002_convert_old_records... OK" in ended[0].stdout
        assert "No migrations to apply" in ended[1].stdout
        assert ended[1].returncode == 0 or "auth_permission" in ended[1].stderr.strip().splitlines()[-1]

    project.ask("make", "Item", 30)
    project.ask("register", "Item")
    assert project.ask("launch")["calls"] == [[1, 30]]


def test_records_of_the_predecessor_are_converted_when_they_are_first_read(project):
    old = {"0001_slugs": [True, False], "0002_once": [True, True], "0003_gone": [False, False]}
    project.ask("put_old_records", **old)

    shown = project.ask("shown")

    # Other tests of the process may have left migrations that are not run.
    assert [line.split()[:2] for line in shown.splitlines() if "[" in line and "[ ]" not in line] == [
        ["[X]", "0001_slugs"],
        ["[!]", "0002_once"],
        ["[C]", "0003_gone"],
    ]
    assert sorted(project.ask("events")) == [
        ["shop:0001_slugs", "convert", "applied"],
        ["shop:0002_once", "convert", "failed"],
        ["shop:0003_gone", "convert", "cancelled"],
    ]
    assert project.ask("is_applied", "shop:0001_slugs")
    assert "already applied" in project.ask("refused", "launch", "shop:0001_slugs")
    assert project.ask("refused", "forget", "shop:0001_slugs") == ""
    assert project.ask("refused", "launch", "shop:0001_slugs") == ""


MANY = 220
"""With tracebacks of 20 KB each, more than one answer may have."""

MOST = 210
"""Entities that a commit may have here, fewer than that."""


@pytest.fixture
def often_failed(project):
    found = project.ask("fail_often", MANY - 1)
    assert found == {"unresolved": MANY, "rows": MANY, "texts": MANY, "traceback": 20_000}
    project.ask("limit_commits", MOST)
    return project


def test_many_failed_objects_do_not_stop_a_retry_and_resolving(often_failed):
    ids = often_failed.ask("first_failed", 1)
    found = often_failed.ask("call", "retry_failed", ids=ids)
    assert (found["status"], found["failed"]) == ("failed", MANY)

    assert often_failed.ask("call", "resolve", reason="none of them is there")["failed"] == 0
    often_failed.ask("repair_rows")
    assert often_failed.ask("call", "retry")["status"] == "applied"


def test_many_failed_objects_do_not_stop_a_restart_and_forgetting(often_failed):
    often_failed.ask("repair_rows")
    found = often_failed.ask("call", "restart")
    assert (found["status"], found["failed"], found["calls"]) == ("applied", 0, [[1, 1], [2, 9]])

    assert often_failed.ask("refused", "forget", "shop:9000_adhoc") == ""
    left = often_failed.ask("failures")
    assert (left["rows"], left["texts"]) == (0, 0)


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("cancel", "cancelled")], ids=["pause", "cancel"])
def test_a_verb_waits_for_a_transaction_that_holds_the_record(project, verb, status):
    project.ask("launch_without_workers")

    assert project.ask("call_while_held", verb) == [status, True]


def test_of_launches_at_one_moment_one_is_done_and_the_others_are_told(project):
    assert project.ask("launch_at_once", 4) == ["AlreadyLaunched"] * 3 + ["launched"]
    assert [verb for _, verb, _ in project.ask("events")] == ["launch"]


def test_a_stage_waits_for_an_operator_and_of_two_who_proceed_at_once_one_is_told(project):
    project.ask("make", "Item", 20)
    project.ask("register_waiting")

    found = project.ask("launch")

    assert (found["status"], found["calls"]) == ("waiting", [[1, 20]])
    assert project.ask("recover") == 0
    assert project.ask("proceed_at_once", 3) == ["InvalidTransition", "InvalidTransition", "proceeded"]
    found = project.ask("found")
    assert (found["status"], found["calls"]) == ("applied", [[1, 40]])
    verbs = [verb for _, verb, _ in project.ask("events")]
    assert verbs == ["launch", "plan", "finish stage", "wait", "proceed", "finish stage", "plan", "applied"]


def test_an_operation_that_cannot_run_now_is_called_again_and_no_try_counts(project):
    project.ask("make", "Item", 20)
    project.ask("register_waiting", busy=12)
    project.ask("launch")
    project.ask("proceed_at_once", 1)

    found = project.ask("found")

    assert (found["status"], found["calls"]) == ("applied", [[1, 40]])
    assert set(project.ask("stalls")) == {0}


@pytest.mark.parametrize("form", ["operation", "operation_batch"])
@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("no color", [1, 2, 3, 4, 5, 7]),
        ("a color", [6]),
        ("not blue", [1, 2, 3, 4, 5, 7]),
        ("from 2 on", [3, 4, 5]),
        ("begins", [2]),
        ("either", [1, 2, 3, 4, 5, 7]),
        ("no color, name", [5]),
    ],
)
def test_objects_meet_conditions_that_indexes_do_not(project, form, only, expected):
    project.ask("make_old_items", 5)
    project.ask("register", "Item", form=form, only=only, batch_size=3)

    found = project.ask("launch")

    assert (found["status"], found["done"], project.ask("called")) == ("applied", len(expected), expected)


def test_a_condition_on_another_models_field_is_refused_at_launch(project):
    project.ask("register", "Part", only="joined")

    assert "does not support joins" in project.ask("refused", "launch", "shop:9000_adhoc")


def test_an_operation_may_delete_its_object(project):
    project.ask("make", "Item", 5)
    project.ask("register", "Item", form="delete", only="no slug")

    found = project.ask("launch")

    assert (found["status"], found["calls"], project.ask("still_matched")) == ("applied", [[1, 5]], False)


def test_a_new_field_is_filled_in_entities_of_before(project):
    project.ask("make_old_items", 5)
    project.ask("operate", "AddFieldData", "shop.Item", "color", "red")

    assert (project.ask("launch")["status"], project.ask("values", "Item", "color")) == (
        "applied",
        [["red", 6], ["blue", 1]],
    )


@pytest.fixture(scope="module")
def wrong_clocks(server):
    """Workers whose clocks are an hour wrong, by the number of seconds that they are ahead."""
    processes = {}
    for shift in (3600, -3600):
        processes[shift] = server.start()
        ask(processes[shift], "shift_clock", shift)
    yield processes
    for process in processes.values():
        end(process)


@pytest.fixture(params=[3600, -3600], ids=["ahead", "behind"])
def other(wrong_clocks, request):
    return wrong_clocks[request.param]


def test_a_worker_with_a_wrong_clock_steals_no_lease(project, other):
    project.ask("plan_by_hand")
    assert project.ask("claim")

    assert not ask(other, "claim")


def test_a_worker_with_a_wrong_clock_holds_its_lease_as_long_as_others(project, other):
    project.ask("plan_by_hand")
    assert ask(other, "claim")

    assert not project.ask("claim")
    assert 0 < project.ask("lease_left") <= DURATIONS["LEASE"] + 1


def test_a_worker_with_a_wrong_clock_says_so(project, other):
    project.ask("plan_by_hand")
    ask(other, "forget_clock")

    (told,) = ask(other, "logged", "claim")

    assert "Set this machine's clock" in told
    assert project.ask("logged", "claim") == []


GONE = {
    "Item": list(range(1, 8)),
    "Named": [f"user-{n}" for n in range(7)],
    "Token": [f"{n:032x}" for n in range(7)],
}


@pytest.mark.parametrize("kind", KEYS.values(), ids=KEYS)
def test_the_property_of_a_field_that_has_gone_is_removed(project, kind):
    project.ask("make_with_gone_field", kind, GONE[kind])
    project.ask("operate", "RemoveFieldData", f"shop.{kind}", "gone", batch_size=3)

    found = project.ask("launch")

    assert (found["status"], found["done"]) == ("applied", 7)
    assert project.ask("properties", kind, GONE[kind]) == [
        {"name": f"Item {n}", "slug": "kept", "color": "red"} for n in range(7)
    ]


def test_removed_properties_are_within_what_google_takes_of_a_transaction(project):
    project.ask("make", "Item", 60, text=90_000)
    project.ask("give_gone_field", "Item")
    project.ask("operate", "RemoveFieldData", "shop.Item", "gone", batch_size=60)

    found = project.ask("launch")

    assert (found["status"], found["done"], project.ask("has_gone_field", "Item")) == ("applied", 60, 0)
    assert project.ask("refusals") == {}


def test_a_field_that_the_model_has_is_set_to_none(project):
    project.ask("make_old_items", 5)
    project.ask("operate", "RemoveFieldData", "shop.Item", "color")

    found = project.ask("launch")

    assert (found["status"], found["done"]) == ("applied", 1)
    assert project.ask("values", "Item", "color") == [[None, 7]]


def test_an_operation_in_a_schema_migration_finds_entities_without_the_field(project):
    project.ask("put", "shop_item", 1, {"name": "Item 0", "slug": "", "text": ""})

    project.ask("apply_in_schema_migration", "AddFieldData", "shop.Item", "color", "red")

    assert project.ask("values", "Item", "color") == [["red", 1]]


@pytest.mark.parametrize(("text", "notes"), [(0, 4), (90_000, 1)], ids=["more than 500 entities", "more than 10 MiB"])
def test_a_batch_that_is_larger_than_google_takes_is_made_smaller(project, text, notes):
    project.ask("make", "Item", 130, text=text)
    project.ask("register", "Item", notes=notes, batch_size=130)

    found = project.ask("launch")

    assert (found["status"], found["calls"]) == ("applied", [[notes, 130]])
    assert project.ask("refusals") == {}


def test_an_object_that_is_larger_than_google_takes_fails(project):
    project.ask("make", "Item", 2)
    project.ask("register", "Item", notes=500, on_error="continue")

    found = project.ask("launch")

    assert (found["status"], found["calls"], len(found["failed"])) == ("failed", [], 2)
    assert project.ask("refusals") == {}


REFUSED = {
    "an expression": ("AddFieldData", ["shop.Item", "slug", {"F": "name"}], {"overwrite": True}),
    "a field's copy": ("CopyFieldData", ["shop.Item", "name", "slug"], {}),
    "rows that are overwritten": ("CopyModelData", ["shop.Named", "shop.Archived"], {"overwrite": True}),
}


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED)
def test_what_takes_sql_is_refused_at_launch(project, operation):
    name, arguments, options = operation
    project.ask("operate", name, *arguments, **options)

    said = project.ask("refused", "launch", "shop:9000_adhoc")
    assert said.startswith(f"{name} in migration")
    assert "cannot compute expressions" in said or "cannot be overwritten" in said
