import pytest

from massmigration.states import ACTIVE, FINAL, TRANSITIONS, Status, sources_of


def test_every_status_has_its_moves():
    assert set(TRANSITIONS) == set(Status)


@pytest.mark.parametrize("status", Status)
def test_a_status_does_not_move_to_itself(status):
    assert status not in TRANSITIONS[status]


def test_an_applied_migration_stays_applied():
    assert TRANSITIONS[Status.APPLIED] == frozenset()


def test_only_planned_work_can_become_applied_without_a_fake():
    assert Status.APPLIED not in TRANSITIONS[Status.QUEUED]


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_what_is_active_can_be_stopped(status):
    assert {Status.PAUSED, Status.CANCELLED} <= TRANSITIONS[status]


def test_a_status_is_active_or_final_or_waits_for_an_operator():
    assert ACTIVE | FINAL | {Status.PAUSED, Status.WAITING} == set(Status)
    assert not ACTIVE & FINAL


@pytest.mark.parametrize("target", Status)
def test_sources_are_the_moves_read_backwards(target):
    assert sources_of(target) == {source for source in Status if target in TRANSITIONS[source]}
