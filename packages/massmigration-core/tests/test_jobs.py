import json

import pytest

from massmigration.exceptions import BadPayload
from massmigration.jobs import MAX_LENGTH, VERSION, Job, JobKind

ATTEMPT = "8a2f4c1e-6b7d-4c55-9f10-3d2b1a0c9e8f"
JOB = Job(kind=JobKind.SHARD, key="testapp:0001_once", db_alias="default", attempt_id=ATTEMPT, stage=1, shard=2)


def changed(**fields):
    return json.dumps({**json.loads(JOB.dumps()), **fields})


def test_a_job_survives_its_payload():
    assert Job.loads(JOB.dumps()) == JOB


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "garbage",
        "null",
        "[]",
        "{}",
        "1",
        '{"v": 1}',
        changed(kind="dance"),
        changed(kind=None),
        changed(extra=1),
        changed(stage="1"),
        changed(shard=None),
        changed(key=1),
        changed(attempt_id="one"),
        changed(attempt_id=1),
        changed(db_alias=None),
        changed(stage=False),
        changed(shard=True),
        changed(shard=1.0),
        None,
        b"garbage",
        JOB.dumps().encode(),
    ],
    ids=repr,
)
def test_what_is_no_job_is_refused(payload):
    with pytest.raises(BadPayload, match=r"not a job|not of type|a job is a str"):
        Job.loads(payload)


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "testapp:\0"},
        {"key": "testapp:\ud800"},
        {"key": "testapp:a\nb"},
        {"key": "k" * 256},
        {"db_alias": "\0"},
        {"stage": -1},
        {"shard": -1},
        {"stage": 2**31},
        {"shard": 10**400},
    ],
    ids=repr,
)
def test_what_no_database_can_be_asked_for_is_refused(fields):
    with pytest.raises(BadPayload, match="has a value that no job has"):
        Job.loads(changed(**fields))


def test_a_job_for_an_unknown_database_is_refused_with_those_there_are():
    with pytest.raises(BadPayload, match="this worker does not have; it has: 'default'"):
        Job.loads(changed(db_alias="gone"))


def test_nested_lists_are_refused_whatever_the_parser_makes_of_them():
    with pytest.raises(BadPayload, match="not a job"):
        Job.loads("[" * (MAX_LENGTH - 1))


def test_a_payload_is_not_parsed_beyond_its_longest(monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("It was parsed."))

    with pytest.raises(BadPayload, match=f"at most {MAX_LENGTH}"):
        Job.loads(JOB.dumps() + " " * MAX_LENGTH)


def test_a_job_of_another_version_is_refused_with_both_versions():
    with pytest.raises(BadPayload, match=f"version {VERSION + 1}; this worker understands {VERSION}"):
        Job.loads(changed(v=VERSION + 1))


def test_a_huge_payload_is_not_repeated_in_full():
    with pytest.raises(BadPayload) as caught:
        Job.loads("x" * 10_000)

    assert len(str(caught.value)) < 400
