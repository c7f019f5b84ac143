import json
import uuid

import pytest

from massmigration.exceptions import BadPayload
from massmigration.jobs import VERSION, Job, JobKind

JOB = Job(
    kind=JobKind.SHARD, key="testapp:0001_once", db_alias="default", attempt_id=str(uuid.uuid4()), stage=1, shard=2
)


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
    ],
)
def test_what_is_no_job_is_refused(payload):
    with pytest.raises(BadPayload, match=r"not a job|not of type"):
        Job.loads(payload)


def test_a_job_of_another_version_is_refused_with_both_versions():
    with pytest.raises(BadPayload, match=f"version {VERSION + 1}; this worker understands {VERSION}"):
        Job.loads(changed(v=VERSION + 1))


def test_a_huge_payload_is_not_repeated_in_full():
    with pytest.raises(BadPayload) as caught:
        Job.loads("x" * 10_000)

    assert len(str(caught.value)) < 400
