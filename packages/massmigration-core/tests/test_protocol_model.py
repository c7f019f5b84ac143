import pytest

from specs.protocol_model import ALL_SCENARIOS, MUTATIONS, UNSEEN, Task, check

pytestmark = pytest.mark.slow

LIMIT = 100_000


@pytest.mark.parametrize("scenario", ["quiet-fail", "quiet-restart", "queue", "hidden"])
def test_the_protocol_holds(scenario):
    result = check(Task(scenario, (), LIMIT))

    assert result.verdict == "ok", result


@pytest.mark.parametrize(
    "mutation", ["plan_no_status", "begin_no_throttled_until", "hidden_commit_not_proven", "lost_claim_not_sent_again"]
)
def test_a_guard_that_is_taken_away_is_missed(mutation):
    scenario, _ = MUTATIONS[mutation]

    result = check(Task(scenario, (mutation,), LIMIT))

    assert result.verdict == "violation", result
    assert result.trace


def test_every_mutation_is_seen_in_a_scenario_or_said_why_not():
    assert {scenario for scenario, _ in MUTATIONS.values()} <= set(ALL_SCENARIOS)
    assert not set(MUTATIONS) & set(UNSEEN)


def test_a_search_that_is_cut_short_is_not_taken_for_a_proof():
    assert check(Task("quiet-fail", (), 100)).verdict == "incomplete"
