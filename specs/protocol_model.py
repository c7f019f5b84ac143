#!/usr/bin/env python3
"""Model of the run protocol, and a checker that visits every state of it within small bounds.

    protocol_model.py                     check every scenario, then every mutation in the scenario that reveals it
    protocol_model.py --deep              the larger scenarios too, and unseen mutations in every scenario
    protocol_model.py --list              list scenarios and mutations
    protocol_model.py -s fail pause       check these scenarios only
    protocol_model.py -m no_fence_begin   check with a guard removed; prints the shortest trace to the violation
    options: -s SCENARIO [...]  -m MUTATION [...]  -n MAX_STATES  -q (no traces)  -j PROCESSES

Exit status: 0 as expected, 1 a violation of the protocol or a mutation that is not caught, 2 incomplete.

One step of the model is one SQL statement, one commit, one send or one delivery; any other step may come between two.
READ COMMITTED: plain reads see committed values; an UPDATE waits for the row lock, then tests its WHERE on the
committed row. A transaction's writes are kept with its owner and applied at commit, so a crash forgets them.
Time is adversarial: a lease may be seen as expired at any moment, and, except in scenarios with `explicit_due`,
`next_send_at` may have passed at any moment, so that recovery may send at any moment. Messages are a set: they are
delivered in any order and after any delay. docs/concepts/protocol.md explains the model and its bounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from typing import NamedTuple

DEAD = 9
"""The lease token of a worker that is gone."""

# What a worker has in its transaction.
NOTHING, WORKED, WORKED_AFTER_ROLLBACK, FAILED, COMMITTED_INSIDE = range(5)
# How a worker's transaction stands: it may be gone without the worker's knowledge.
OPEN, ROLLED_BACK, COMMITTED = range(3)
# What a worker remembers from one step for the next; a sum of these.
WAS_ROLLED_BACK, SAW_ALL_DONE, SAW_FAILURES, SAW_NO_FAILURES, SAW_RUNNING, SAW_STOPPED, CONTINUES, SAW_ROOM = (
    1 << bit for bit in range(8)
)

REPLACED, CURRENT, NEXT = range(3)
"""What a job's ticket is to its shard's row: another job has claimed since; the row holds it; or a claim may write it,
for the row holds none, or that of the job which this one continues.
"""

BATCH_TRANSACTION = frozenset(
    {"batch_status", "batch_work", "checkpoint", "batch_commit", "failure_checkpoint", "failure_commit"}
)
"""Steps with an open transaction that has locked the shard's row."""

RECORD_TRANSACTION = frozenset({"plan_commit", "wait_commit", "finish_commit"})
"""Steps with an open transaction that has locked the record's row."""

OTHER_TRANSACTION = frozenset({"plan_commit", "wait_commit", "look_failures", "finish_update", "finish_commit"})


class Message(NamedTuple):
    """One job in the queue. `ticket`: the relation of its ticket to the shard's row."""

    kind: str
    attempt: int
    stage: int
    shard: int = -1
    ticket: int = NEXT

    def __str__(self) -> str:
        if self.kind != "shard":
            return f"{self.kind} (attempt {self.attempt}, stage {self.stage})"
        ticket = ("a replaced ticket", "the row's ticket", "a new ticket")[self.ticket]
        return f"shard {self.shard} (attempt {self.attempt}, stage {self.stage}, {ticket})"


class Record(NamedTuple):
    """The migration's row. `due`: `next_send_at` has passed."""

    status: str
    attempt: int
    stage: int
    planned: bool
    due: bool


class Shard(NamedTuple):
    """A shard's row. `failed`: the attempt that recorded its failed object, or 0."""

    attempt: int
    upper: int = 0
    cursor: int = 0
    fence: int = 0
    token: int = 0
    done: bool = False
    due: bool = True
    failed: int = 0
    ticketed: bool = False
    throttled: bool = False
    stalled: int = 0


NO_SHARD = Shard(attempt=0, fence=-9, done=False)
"""What is found of a shard that was deleted, or is not planned yet: no UPDATE matches it."""


class Worker(NamedTuple):
    """A worker, at its next step.

    `late`: the batch was begun while the record was not running, everything was paused, or after the pace had changed.
    `limit`: the number of workers that the pace allowed when it was read before the claim; 0: any number.
    """

    step: str
    attempt: int = 0
    stage: int = 0
    shard: int = 0
    fence: int = 0
    upper: int = 0
    cursor: int = 0
    ticket: int = REPLACED
    transaction: int = OPEN
    late: bool = False
    frozen: bool = False
    work: int = NOTHING
    noted: int = 0
    sends: tuple[Message, ...] = ()
    limit: int = 0
    job: str = ""
    """The kind of its job: always of a shard's, and of others where the queue delivers them again after a kill."""


IDLE = Worker("idle")


class Operator(NamedTuple):
    """The process that launches, and in which an operator performs actions."""

    step: str
    verb: str = ""
    frozen: bool = False


class Budget(NamedTuple):
    """The number of times that each kind of event may still happen."""

    faults: int
    fails: int
    pauses: int
    verbs: int
    throttles: int
    readers: int
    halts: int = 0
    paces: int = 0


class State(NamedTuple):
    """Everything: the rows of the database, the queue, the processes."""

    record: Record
    shards: tuple[Shard | None, ...]
    rows: tuple[int, ...]
    messages: frozenset[Message]
    workers: tuple[Worker, ...]
    operator: Operator
    budget: Budget
    reader: tuple[int, int] | None = None
    """The attempt and the stage of the question that a second person has before them, and may confirm at any time."""

    confirmed: frozenset[int] = frozenset()
    """Stages that wait, and whose question somebody has read and confirmed since the first launch or the restart."""

    halted: bool = False
    """The switch that pauses everything is on."""

    limit: int = 0
    """The number of workers that the pace in the record allows; 0: any number."""


class Edge(NamedTuple):
    """One step. `fair`: it happens in the end where it stays possible; faults and operators' wishes need not."""

    label: str
    target: State
    problem: str | None = None
    fair: bool = True


# ---- scenarios and mutations


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Bounds of one search: the size of the run, and what may happen to it."""

    about: str
    stages: int = 1
    waits: frozenset[int] = frozenset()
    """Stages that wait for a person. They have no shards."""

    readers: int = 0
    """How often a second person reads the question, and confirms it later."""

    shards: int = 2
    batches: int = 2
    workers: int = 2
    kinds: frozenset[str] = frozenset()
    """Kinds of faults that may happen, `faults` in all."""

    faults: int = 0
    fails: int = 0
    """Batches that raise."""

    pauses: int = 0
    verbs: int = 0
    """How often an operator replaces the attempt by one of `with_verbs`."""

    with_verbs: frozenset[str] = frozenset({"retry"})
    throttles: int = 0
    """How often a throttle asks for a wait."""

    halts: int = 0
    """How often an operator pauses everything."""

    paces: int = 0
    """How often an operator changes the pace, which then allows one worker."""

    is_limited: bool = False
    """The pace allows one worker from the start."""

    steals: bool = False
    """The first shard has all batches; another worker may take the last of them as the second shard."""

    recovers: bool = True
    explicit_due: bool = False
    """`next_send_at` is written and passes, and recovery takes two steps."""

    on_error: str = "stop"
    acks_late: bool = False
    """The queue delivers a killed worker's message again."""

    tickets: bool = True
    """Tickets only keep jobs from claiming: what is safe without them is safe with them, and has fewer states."""

    never_ends: bool = False
    """The first batch is refused each time, as by a row that kills its connection."""


CRASH = frozenset({"crash"})
FAULTS = frozenset({"crash", "freeze", "loss", "dup", "rollback", "unknown"})

SCENARIOS = {
    "empty": Scenario(about="empty queryset, no fault, no recovery", shards=0, batches=1, recovers=False, pauses=1),
    "quiet": Scenario(
        about="no fault, no recovery: must end by messages alone", batches=1, recovers=False, pauses=1, verbs=1
    ),
    "quiet-stages": Scenario(
        about="the same, 2 stages", stages=2, shards=1, batches=1, recovers=False, pauses=1, verbs=1
    ),
    "quiet-fail": Scenario(
        about="a batch fails once, no fault, no recovery", batches=1, recovers=False, fails=1, verbs=1
    ),
    "quiet-restart": Scenario(
        about="the same, 1 shard x 2 batches, restart or forget and launch",
        shards=1,
        recovers=False,
        verbs=1,
        with_verbs=frozenset({"restart", "forget"}),
    ),
    "queue": Scenario(
        about="no recovery, a killed worker's message comes back, 1 shard x 2 batches, two kills, pause",
        shards=1,
        kinds=CRASH,
        faults=2,
        pauses=1,
        recovers=False,
        acks_late=True,
    ),
    "small": Scenario(about="1 shard x 1 batch, one fault", shards=1, batches=1, kinds=FAULTS, faults=1),
    "recover": Scenario(
        about="explicit next_send_at, two-step recovery, 1 shard x 2 batches, two crashes or losses",
        shards=1,
        kinds=frozenset({"crash", "loss"}),
        faults=2,
        explicit_due=True,
    ),
    "continue": Scenario(
        about="on_error=continue, 1 shard x 2 batches, one fault",
        tickets=False,
        shards=1,
        fails=1,
        verbs=1,
        kinds=frozenset({"crash", "dup", "loss", "freeze"}),
        faults=1,
        on_error="continue",
    ),
    "continue-shards": Scenario(
        about="on_error=continue, 2 shards x 1 batch, no fault",
        tickets=False,
        batches=1,
        fails=1,
        verbs=1,
        on_error="continue",
    ),
    "fail": Scenario(
        about="on_error=stop, 1 shard x 2 batches, one failing batch, retry, one fault",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=1,
        fails=1,
        verbs=1,
    ),
    "two-faults": Scenario(about="1 shard x 2 batches, two faults", shards=1, kinds=FAULTS, faults=2),
    "pause": Scenario(
        about="2 shards x 1 batch, pause and resume, one fault",
        tickets=False,
        batches=1,
        kinds=FAULTS,
        faults=1,
        pauses=1,
    ),
    "retry": Scenario(
        about="1 shard x 2 batches, cancel and retry, one fault",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=1,
        verbs=1,
    ),
    "restart": Scenario(
        about="1 shard x 2 batches, cancel, then restart or forget and launch, one fault",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=1,
        verbs=1,
        with_verbs=frozenset({"restart", "forget"}),
    ),
    "throttle": Scenario(
        about="1 shard x 2 batches, a throttled wait, one fault", shards=1, kinds=FAULTS, faults=1, throttles=1
    ),
    "quiet-throttle": Scenario(
        about="no fault, no recovery, 2 shards x 1 batch, two throttled waits",
        batches=1,
        recovers=False,
        pauses=1,
        throttles=2,
    ),
    "steal": Scenario(
        about="1 shard x 2 batches, the second of which another worker may take, one fault",
        kinds=FAULTS,
        faults=1,
        steals=True,
        tickets=False,
    ),
    "hidden": Scenario(
        about="one worker, 1 shard x 2 batches, an operation that commits inside its batch",
        shards=1,
        workers=1,
        kinds=frozenset({"hidden"}),
        faults=1,
    ),
    "stalled": Scenario(
        about="1 shard x 2 batches, the first is refused each time, one fault",
        shards=1,
        kinds=frozenset({"crash", "dup", "loss"}),
        faults=1,
        never_ends=True,
    ),
    "faults": Scenario(about="2 shards x 2 batches, one fault", tickets=False, kinds=FAULTS, faults=1),
    "wait": Scenario(
        about="a stage that waits, then 1 shard x 1 batch, one fault",
        tickets=False,
        stages=2,
        waits=frozenset({0}),
        shards=1,
        batches=1,
        kinds=frozenset({"crash", "loss", "dup", "freeze"}),
        faults=1,
    ),
    "quiet-wait": Scenario(
        about="no fault, no recovery, 2 stages of which the last waits",
        stages=2,
        waits=frozenset({1}),
        shards=1,
        batches=1,
        recovers=False,
        pauses=1,
        verbs=1,
    ),
    "questions": Scenario(
        about="no recovery, 2 stages that wait, two people who confirm, cancel and restart, one duplicate",
        tickets=False,
        recovers=False,
        stages=2,
        waits=frozenset({0, 1}),
        readers=1,
        kinds=frozenset({"dup"}),
        faults=1,
        verbs=1,
        with_verbs=frozenset({"restart"}),
    ),
    "halt": Scenario(
        about="1 shard x 2 batches, pause and resume everything, one fault",
        tickets=False,
        shards=1,
        kinds=frozenset({"crash", "loss", "dup", "freeze"}),
        faults=1,
        halts=1,
    ),
    "quiet-halt": Scenario(
        about="no fault, no recovery, 2 stages x 1 batch, pause and resume everything",
        stages=2,
        shards=1,
        batches=1,
        recovers=False,
        halts=1,
    ),
    "limit": Scenario(
        about="2 shards x 1 batch, one worker at once, one fault",
        tickets=False,
        batches=1,
        kinds=frozenset({"crash", "loss", "dup", "freeze"}),
        faults=1,
        is_limited=True,
    ),
    "quiet-pace": Scenario(
        about="no fault, no recovery, 2 shards x 1 batch, the pace changes to one worker at once",
        batches=1,
        recovers=False,
        paces=1,
    ),
    "pace": Scenario(
        about="1 shard x 2 batches, the pace changes, one fault",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=1,
        paces=1,
    ),
    "limit-steal": Scenario(
        about="no fault, as steal, and the pace changes to one worker at once",
        steals=True,
        tickets=False,
        paces=1,
    ),
    "stages": Scenario(
        about="2 stages x 1 shard x 1 batch, one fault",
        tickets=False,
        stages=2,
        shards=1,
        batches=1,
        kinds=FAULTS,
        faults=1,
    ),
}

DEEP_SCENARIOS = {
    "deep-fail": Scenario(
        about="as fail, 2 shards x 1 batch", tickets=False, batches=1, kinds=FAULTS, faults=1, fails=1, verbs=1
    ),
    "deep-faults": Scenario(about="2 shards x 2 batches, two faults", tickets=False, kinds=FAULTS, faults=2),
    "deep-retry": Scenario(
        about="1 shard x 2 batches, cancel and retry twice, pause, two faults",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=2,
        pauses=1,
        verbs=2,
    ),
    "deep-verbs": Scenario(
        about="1 shard x 2 batches, any two of retry, restart and forget, one fault",
        tickets=False,
        shards=1,
        kinds=FAULTS,
        faults=1,
        verbs=2,
        with_verbs=frozenset({"retry", "restart", "forget"}),
    ),
    "deep-throttle": Scenario(
        about="2 shards x 1 batch, pause, two throttled waits, one fault",
        batches=1,
        kinds=FAULTS,
        faults=1,
        pauses=1,
        throttles=2,
    ),
    "deep-steal": Scenario(
        about="as steal, with cancel and retry",
        kinds=FAULTS,
        faults=1,
        verbs=1,
        steals=True,
        tickets=False,
    ),
    "deep-stages": Scenario(
        about="as stages, with pause, cancel and retry",
        tickets=False,
        stages=2,
        shards=1,
        batches=1,
        kinds=FAULTS,
        faults=1,
        pauses=1,
        verbs=1,
    ),
    "deep-workers": Scenario(
        about="3 workers, 1 shard x 2 batches, cancel and retry, one fault",
        tickets=False,
        shards=1,
        workers=3,
        kinds=FAULTS,
        faults=1,
        verbs=1,
    ),
}

ALL_SCENARIOS = {**SCENARIOS, **DEEP_SCENARIOS}

MAX_STALLED = 2
"""Rounds without progress after which a run fails."""

MUTATIONS: dict[str, tuple[str, str]] = {
    # The first UPDATE of a batch.
    "begin_no_fence": ("steal", "a batch begins without fence = :seen"),
    "steal_keeps_fence": ("steal", "work stealing does not raise the fence of the shard that it splits"),
    "steal_raises_fence_by_one": ("steal", "work stealing raises it by one, as a commit inside a batch does"),
    "no_fence_no_read_again": ("two-faults", "a batch begins without it, and is tried again as it was"),
    "begin_no_token": ("two-faults", "a batch begins without lease_token = :mine"),
    "begin_no_fence_no_token": ("two-faults", "a batch begins with neither"),
    "no_attempt_anywhere": ("retry", "neither claim nor batch mention the attempt"),
    "no_begin": ("two-faults", "no first UPDATE; the checkpoint compares fence = :seen and adds one"),
    "no_status_read": ("pause", "a batch does not read the record's status"),
    "no_throttled_until": ("throttle", "neither claim nor batch mention throttled_until"),
    "begin_no_throttled_until": ("throttle", "a batch begins although its shard is throttled"),
    # The checkpoint.
    "no_checkpoint_conditions": ("two-faults", "a checkpoint without conditions"),
    "checkpoint_no_fence": ("two-faults", "a checkpoint conditional on lease_token and attempt, not on the fence"),
    "checkpoint_fence_only": ("two-faults", "a checkpoint conditional on the fence alone"),
    "failure_not_resolved": ("fail", "a batch that passes a failed object does not resolve it"),
    "hidden_commit_not_proven": ("hidden", "a failed batch with a commit inside is tried again"),
    "stalled_not_counted": ("stalled", "rounds without progress are not counted"),
    # The claim.
    "claim_no_attempt": ("quiet", "a claim without attempt"),
    "claim_no_done": ("queue", "a claim without not is_done"),
    "old_jobs_sent_again": ("retry", "a claim that is lost because the attempt was replaced is sent again"),
    "lost_claim_not_sent_again": ("queue", "a lost claim is not sent again"),
    "done_does_not_look": ("queue", "a job that finds its shard done does not run the completion check"),
    "release_unconditional": ("quiet", "a release without lease_token = :mine"),
    # The plan.
    "plan_unconditional": ("pause", "plan's UPDATE without not is_planned"),
    "plan_no_attempt": ("retry", "plan's UPDATE without attempt"),
    "plan_no_stage": ("stages", "plan's UPDATE without stage"),
    "plan_no_status": ("pause", "plan's UPDATE without status"),
    "plan_from_queued_only": ("quiet-stages", "plan is conditional on the status queued; a second stage is running"),
    "loser_does_not_look": ("queue", "a plan that loses and has nothing to send does not run the completion check"),
    "back_to_queued": ("quiet", "resume and retry set queued although the shards are planned"),
    "back_to_running": ("quiet", "resume and retry set running although nothing is planned"),
    "send_before_commit": ("quiet", "launch, plan and finish send before they commit"),
    # A stage that waits for a person.
    "wait_no_stage": ("questions", "the UPDATE to waiting without stage"),
    "wait_no_status": ("questions", "the UPDATE to waiting without status"),
    "wait_no_planned": ("questions", "the UPDATE to waiting without not is_planned"),
    "proceed_no_status": ("questions", "proceed without status = waiting"),
    "proceed_no_stage": ("questions", "proceed without the stage whose question was read"),
    "proceed_no_attempt": ("questions", "proceed without the attempt whose question was read"),
    "proceed_not_planned": ("quiet-wait", "proceed does not set is_planned"),
    # The finish.
    "finish_in_batch": ("quiet", "the completion check is inside the last batch's transaction"),
    "finish_no_attempt": ("retry", "the finish without attempt"),
    "finish_no_stage": ("stages", "the finish without stage"),
    "finish_no_status": ("pause", "the finish without status = running"),
    "look_skips_record": ("quiet", "the completion check counts shards without reading is_planned before"),
    "look_reads_failures_first": ("continue-shards", "the completion check reads the failed objects before the shards"),
    # Recovery.
    "recovers_no_plan": ("small", "recovery does not send a lost plan"),
    "recovers_no_unclaimed": ("small", "recovery does not send a shard that was never claimed"),
    "recovers_no_abandoned": ("small", "recovery does not send a shard whose lease has expired"),
    "recovers_no_look": ("small", "recovery does not find a stage that is done"),
    "recovers_no_later_plan": ("stages", "recovery does not send the plan of a later stage"),
    "recover_unconditional": ("recover", "recovery's UPDATE of next_send_at is not conditional"),
    "idle_limit_in_batches_only": ("small", "only batches set the idle-in-transaction limit"),
    # The pace, and the switch that pauses everything.
    "no_switch_read": ("halt", "a batch does not read the switch that pauses everything"),
    "plan_no_switch": ("quiet-halt", "plan does not read the switch"),
    "resume_all_sends_nothing": ("quiet-halt", "resuming everything sends no jobs"),
    "no_pace_read": ("pace", "a batch does not compare the pace with that of its claim"),
    "claim_no_limit": ("limit", "a claim does not count the leases that are held"),
    "claim_counts_before_lock": ("limit", "a claim counts the leases before it locks the record"),
    "steal_no_limit": ("limit-steal", "work stealing does not count the leases that are held"),
    # Tickets.
    "claim_ignores_ticket": ("queue", "a job claims although a later one has claimed before"),
    "replaced_job_sent_again": ("queue", "a job that a later one has replaced is sent again after a lost claim"),
    # Retry, restart, forget.
    "replace_without_shards": ("retry", "retry, restart and forget do not touch the shards"),
    "restart_keeps_attempt": ("restart", "restart does not change the attempt"),
    "restart_keeps_plan": ("restart", "restart leaves is_planned as it is"),
    "forget_keeps_shards": ("restart", "forget deletes the record only"),
}
"""A mutation's name, the scenario in which it is seen, and what it takes away or changes."""

UNSEEN: dict[str, tuple[str, str]] = {
    "claim_no_switch": ("a batch does not begin while it is on", "a claim does not read the switch"),
    "claim_no_throttled_until": ("a batch does not begin before it", "a claim although the shard is throttled"),
    "checkpoint_no_mark": (
        "the batch was committed once, by two transactions; what a kill between them does is not in the model",
        "a checkpoint does not detect a commit inside the batch",
    ),
    "continues_unowned": (
        "of two jobs that continue the same one, all but the first to claim are dropped",
        "a job sends its continuation although it has lost its shard",
    ),
    "begin_no_attempt": ("a claim checks the attempt, and retry sets the token to null", "a batch begins without it"),
    "wait_no_attempt": (
        "the stage is compared, and it waits in every attempt",
        "the UPDATE to waiting without attempt",
    ),
    "failures_of_this_attempt": (
        "failed objects are retried as one more shard, whose batch resolves them",
        "only failed objects of the present attempt count",
    ),
    "finish_no_planned": (
        "the completion check reads is_planned before it counts, which is the guard that matters",
        "the finish without is_planned",
    ),
    "no_reread": (
        "a resume sends a job, and a lost claim is sent again; with lost_claim_not_sent_again it is seen",
        "the status is not read again after the release",
    ),
    "reread_before_release": ("the same", "the status is read again before the release"),
    "retry_keeps_fence": ("attempt and token are compared at both ends of a batch", "retry does not raise the fence"),
    "retry_keeps_token": (
        "the attempt is in the claim and at both ends of a batch; time is abstract: a retry would wait for the lease",
        "retry leaves the token",
    ),
    "retry_keeps_fence_and_token": ("the same", "retry does neither"),
    "claim_waits": ("it costs workers, which the model does not count", "a claim without SKIP LOCKED"),
}
"""A mutation's name, why it violates nothing here, and what it takes away or changes."""


class Model:
    """The protocol under a scenario, with the mutations of its guards that are wanted."""

    def __init__(self, scenario: Scenario, mutations: Sequence[str] = ()) -> None:
        self.scenario = scenario
        self.mutations = frozenset(mutations)

    def has(self, *names: str) -> bool:
        """Return whether one of these mutations is made."""
        return not self.mutations.isdisjoint(names)

    # States.

    def initial(self) -> State:
        c = self.scenario
        shards = (c.stages - len(c.waits)) * c.shards
        return State(
            record=Record("queued", 1, 0, planned=False, due=True),
            shards=(None,) * shards,
            rows=(0,) * (c.batches if c.steals else shards * c.batches),
            messages=frozenset(),
            workers=(IDLE,) * c.workers,
            operator=Operator("launch"),
            budget=Budget(c.faults, c.fails, c.pauses, c.verbs, c.throttles, c.readers, c.halts, c.paces),
            limit=int(c.is_limited),
        )

    def canonical(self, state: State) -> State:
        """Sort the workers, which are interchangeable, and rename the lease tokens."""
        order = sorted(range(len(state.workers)), key=state.workers.__getitem__)
        if order == list(range(len(order))):
            return state
        new = {old + 1: place + 1 for place, old in enumerate(order)}
        shards = tuple(shard and shard._replace(token=new.get(shard.token, shard.token)) for shard in state.shards)
        return state._replace(workers=tuple(state.workers[i] for i in order), shards=shards)

    @staticmethod
    def shard_of(state: State, worker: Worker) -> Shard:
        return (state.shards[worker.shard] if state.shards else None) or NO_SHARD

    @staticmethod
    def with_worker(state: State, i: int, worker: Worker) -> State:
        state = state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
        if worker.step == "idle" and any(shard and shard.token == i + 1 for shard in state.shards):
            shards = tuple(
                shard._replace(token=DEAD) if shard and shard.token == i + 1 else shard for shard in state.shards
            )
            state = state._replace(shards=shards)
        return state

    @staticmethod
    def with_shard(state: State, index: int, **fields: object) -> State:
        shard = state.shards[index]
        assert shard is not None
        changed = shard._replace(**fields)  # type: ignore[arg-type]
        return state._replace(shards=(*state.shards[:index], changed, *state.shards[index + 1 :]))

    def sent(self, state: State, message: Message) -> State:
        return state._replace(messages=state.messages | {message}) if self._matters(message) else state

    @staticmethod
    def spent(state: State, kind: str) -> State:
        return state._replace(budget=state.budget._replace(**{kind: getattr(state.budget, kind) - 1}))

    def with_status(self, state: State, status: str, **fields: object) -> State:
        state = state._replace(record=state.record._replace(status=status, **fields))  # type: ignore[arg-type]
        return self._none_late(state) if status == "running" else state

    @staticmethod
    def _none_late(state: State) -> State:
        """Return the state after a pause: a batch that began in it does not belong to a run that continues."""
        if not any(worker.late for worker in state.workers):
            return state
        return state._replace(workers=tuple(worker._replace(late=False) for worker in state.workers))

    @staticmethod
    def is_run(state: State) -> bool:
        """Return whether the record runs and not everything is paused."""
        return state.record.status == "running" and not state.halted

    @staticmethod
    def held(state: State, index: int) -> tuple[int, int]:
        """Return how many other shards have a live worker, and how many have a dead one, whose lease may expire."""
        tokens = [shard.token for k, shard in enumerate(state.shards) if shard and k != index and not shard.done]
        return sum(0 < token < DEAD for token in tokens), sum(token == DEAD for token in tokens)

    def too_many(self, state: State, index: int, limit: int) -> str | None:
        """Return the violation if a worker more than the pace allows has a shard, now that `index` is claimed."""
        if not limit or limit != state.limit:
            return None
        live = [
            shard.token
            for k, shard in enumerate(state.shards)
            if shard and k != index and not shard.done and 0 < shard.token < DEAD
        ]
        under = sum(state.workers[token - 1].limit == limit for token in live)
        return "S10: more workers have a shard than the pace allows" if under >= limit else None

    def _with_tickets(self, state: State, index: int, change: Callable[[int], int]) -> State:
        """Return the state after a change of the ticket in a shard's row. `change` maps the jobs' relations to it."""

        def changed(message: Message) -> Message:
            return message._replace(ticket=change(message.ticket)) if message.shard == index else message

        def changed_worker(worker: Worker) -> Worker:
            sends = tuple(map(changed, worker.sends))
            has_job = worker.shard == index and worker.job == "shard"
            return worker._replace(sends=sends, ticket=change(worker.ticket) if has_job else worker.ticket)

        messages = frozenset(message for message in map(changed, state.messages) if self._matters(message))
        return state._replace(messages=messages, workers=tuple(map(changed_worker, state.workers)))

    def _matters(self, message: Message) -> bool:
        """Return whether to keep a message. A job with a replaced ticket does only what recovery may always do."""
        return message.ticket != REPLACED or self.has("claim_ignores_ticket", "replaced_job_sent_again")

    def with_claim(self, state: State, i: int, worker: Worker) -> Iterator[State]:
        """Yield the states after worker `i` has claimed with its job's ticket."""
        if worker.ticket != NEXT or not self.scenario.tickets:
            yield self.with_worker(state, i, worker)
            return
        others = {message.ticket for message in state.messages if message.shard == worker.shard}
        others |= {other.ticket for k, other in enumerate(state.workers) if k != i and other.shard == worker.shard}
        # Other jobs with a ticket that the row did not hold are copies of this one, or have another ticket.
        for of_next in (CURRENT, REPLACED) if NEXT in others else (REPLACED,):
            after = self._with_tickets(state, worker.shard, [REPLACED, REPLACED, of_next].__getitem__)
            yield self.with_worker(after, i, worker._replace(ticket=CURRENT))

    # What plain reads see, and which locks are free.

    def shards_of(self, stage: int) -> range:
        c = self.scenario
        place = sum(earlier not in c.waits for earlier in range(stage))
        return range(0) if stage in c.waits else range(place * c.shards, (place + 1) * c.shards)

    def is_shard_free(self, state: State, index: int, me: int | None = None) -> bool:
        """Return whether no transaction but that of worker `me` has locked the shard's row."""
        if state.operator.step == "replace_commit":
            return False
        steps = {"batch_commit", "failure_commit"} if self.has("no_begin") else BATCH_TRANSACTION
        return not any(
            i != me and worker.shard == index and worker.transaction == OPEN and worker.step in steps
            for i, worker in enumerate(state.workers)
        )

    def is_record_free(self, state: State, me: int | None = None) -> bool:
        return state.operator.step not in ("replace_shards", "replace_commit") and not any(
            i != me and worker.step in RECORD_TRANSACTION for i, worker in enumerate(state.workers)
        )

    def undone(self, state: State, stage: int, attempt: int) -> list[int]:
        return [
            index
            for index in self.shards_of(stage)
            if (shard := state.shards[index])
            and not shard.done
            and (shard.attempt == attempt or self.has("replace_without_shards"))
        ]

    def are_all_done(self, state: State, stage: int, attempt: int, mine: int | None = None) -> bool:
        """Return whether all shards are done for a reader whose open transaction has marked `mine` done."""
        return all(
            shard is None
            or shard.done
            or index == mine
            or (shard.attempt != attempt and not self.has("replace_without_shards"))
            for index in self.shards_of(stage)
            for shard in [state.shards[index]]
        )

    def has_failures(self, state: State, attempt: int) -> bool:
        of_this = self.has("failures_of_this_attempt")
        return any(shard and shard.failed and (not of_this or shard.failed == attempt) for shard in state.shards)

    # All steps that are possible.

    def successors(self, state: State) -> Iterator[Edge]:
        yield from self.operator(state)
        yield from self.reader(state)
        for i, worker in enumerate(state.workers):
            if worker.step == "idle":
                if i and state.workers[i - 1].step == "idle":
                    continue  # interchangeable
                yield from self.deliveries(state, i)
                if self.scenario.recovers:
                    yield from self.recoveries(state, i)
                if self.scenario.steals:
                    yield from self.steals(state, i)
            elif worker.frozen:
                yield from self.thawing(state, i, worker)
            else:
                step: Callable[[State, int, Worker], Iterator[Edge]] = getattr(self, "do_" + worker.step)
                for edge in step(state, i, worker):
                    yield edge._replace(label=f"worker {i} {edge.label}")
                if state.budget.faults:
                    yield from self.faults(state, i, worker)
        yield from self.time(state)
        if state.budget.faults and "loss" in self.scenario.kinds:
            after = self.spent(state, "faults")
            for message in state.messages:
                lost = after._replace(messages=state.messages - {message})
                yield Edge(f"the queue loses {message}", lost, fair=False)

    def time(self, state: State) -> Iterator[Edge]:
        for index, shard in enumerate(state.shards):
            if shard and shard.throttled:
                yield Edge(f"throttled_until of shard {index} passes", self.with_shard(state, index, throttled=False))
        if not self.scenario.explicit_due:
            return
        if state.record.status != "none" and not state.record.due:
            yield Edge("next_send_at of the record passes", state._replace(record=state.record._replace(due=True)))
        for index, shard in enumerate(state.shards):
            if shard and not shard.due:
                yield Edge(f"next_send_at of shard {index} passes", self.with_shard(state, index, due=True))

    def thawing(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        yield Edge(f"worker {i} wakes", self.with_worker(state, i, worker._replace(frozen=False)), fair=False)
        has_limit = worker.step in BATCH_TRANSACTION or (
            worker.step in OTHER_TRANSACTION and not self.has("idle_limit_in_batches_only")
        )
        if worker.transaction == OPEN and has_limit:
            yield Edge(f"the idle limit ends worker {i}'s transaction", self.with_worker(state, i, IDLE))

    def faults(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        kinds, after = self.scenario.kinds, self.spent(state, "faults")
        if "crash" in kinds:
            killed = self.with_worker(after, i, IDLE)
            if self.scenario.acks_late:
                index = worker.shard if worker.job == "shard" else -1
                killed = self.sent(killed, Message(worker.job, worker.attempt, worker.stage, index, worker.ticket))
            yield Edge(f"worker {i} is killed before {worker.step}", killed, fair=False)
        if "freeze" in kinds and any(other is not worker and not other.frozen for other in state.workers):
            frozen = self.with_worker(after, i, worker._replace(frozen=True))
            yield Edge(f"worker {i} freezes before {worker.step}", frozen, fair=False)
        if "rollback" in kinds and worker.step in ("batch_work", "checkpoint") and worker.transaction == OPEN:
            lost = self.with_worker(after, i, worker._replace(transaction=ROLLED_BACK))
            yield Edge(f"the server rolls worker {i}'s transaction back unnoticed", lost, fair=False)

    # The operator's process.

    def operator(self, state: State) -> Iterator[Edge]:
        operator = state.operator
        is_in_transaction = operator.step in ("replace_shards", "replace_commit")
        idle = state._replace(operator=Operator("idle"))
        if operator.frozen:
            yield Edge(
                "the operator's process wakes", state._replace(operator=operator._replace(frozen=False)), None, False
            )
            if is_in_transaction and not self.has("idle_limit_in_batches_only"):
                yield Edge("the idle limit ends the operator's transaction", idle)
            return
        if operator.step == "idle":
            yield from self.verbs(state)
            return
        plan = Message("plan", state.record.attempt, state.record.stage)
        if operator.step == "launch":
            # A second launch meets the primary key, and changes nothing.
            if self.has("send_before_commit") and not state.messages and state.record.status == "queued":
                yield Edge("launch sends plan before its commit, a worker finds no record, launch commits", idle)
            else:
                yield Edge("launch commits, then sends plan", self.sent(idle, plan))
        elif operator.step == "send":
            yield Edge("the operator's process sends plan", self.sent(idle, plan))
        elif operator.step == "replace_shards":
            yield from self.replace_shards(state)
        else:
            yield from self.replace_commit(state)
        if state.budget.faults:
            after = self.spent(state, "faults")
            if "crash" in self.scenario.kinds and not self.scenario.acks_late:
                killed = after._replace(operator=Operator("idle"))
                if is_in_transaction:
                    killed = killed._replace(budget=killed.budget._replace(verbs=killed.budget.verbs + 1))
                yield Edge(f"the operator's process is killed before {operator.step}", killed, fair=False)
            if "freeze" in self.scenario.kinds and is_in_transaction:  # outside, it is the same as a kill
                frozen = after._replace(operator=operator._replace(frozen=True))
                yield Edge(f"the operator's process freezes before {operator.step}", frozen, fair=False)

    def _resumed(self, record: Record) -> str:
        if self.has("back_to_queued"):
            return "queued"
        return "running" if record.planned or self.has("back_to_running") else "queued"

    def verbs(self, state: State) -> Iterator[Edge]:
        """Yield the actions that an operator may perform now."""
        record, budget = state.record, state.budget
        if budget.halts and not state.halted:
            yield Edge("pause everything", self.spent(state, "halts")._replace(halted=True), fair=False)
        if state.halted:
            resumed = self._none_late(state._replace(halted=False))
            sends = "idle" if self.has("resume_all_sends_nothing") else "send"
            yield Edge("resume everything", resumed._replace(operator=Operator(sends)))
        if not self.is_record_free(state):
            return
        if budget.paces and record.status in ("queued", "running"):
            changed = self.spent(state, "paces")._replace(limit=1, operator=Operator("send"))
            yield Edge("the pace allows one worker", changed, fair=False)
        if budget.pauses and record.status in ("queued", "running"):
            yield Edge("pause", self.spent(self.with_status(state, "paused"), "pauses"), fair=False)
        if record.status == "paused":
            resumed = self.with_status(state, self._resumed(record))._replace(operator=Operator("send"))
            yield Edge(f"resume ({resumed.record.status})", resumed)
        if record.status == "waiting":
            proceeded = self._proceeded(state, record.attempt, record.stage)
            if proceeded is not None:
                yield Edge("proceed", proceeded)
        stoppable = ("queued", "running", "waiting", "paused")
        if budget.verbs and record.status in stoppable and not self.scenario.fails:
            yield Edge("cancel", self.with_status(state, "cancelled"), fair=False)
        if record.status == "none":
            launched = Record("queued", record.attempt + 1, 0, planned=False, due=not self.scenario.explicit_due)
            rows = (0,) * len(state.rows)
            yield Edge(
                "launch inserts a new record",
                state._replace(record=launched, rows=rows, operator=Operator("launch"), confirmed=frozenset()),
            )
        if not budget.verbs:
            return
        sources = {
            "retry": ("failed", "cancelled"),
            "restart": ("failed", "cancelled"),
            "forget": ("failed", "cancelled", "waiting", "paused", "applied"),
        }
        for verb, statuses in sources.items():
            if verb in self.scenario.with_verbs and record.status in statuses:
                begun = self.spent(state, "verbs")._replace(operator=Operator("replace_shards", verb))
                # To retry is what can always be done in the end; to forget an applied migration is a wish.
                yield Edge(f"{verb} UPDATEs the record", begun, fair=record.status != "applied")

    def reader(self, state: State) -> Iterator[Edge]:
        """Yield the steps of a second person, who reads a question and confirms it after any time."""
        record, reader = state.record, state.reader
        if reader is None:
            if state.budget.readers and record.status == "waiting":
                read = self.spent(state._replace(reader=(record.attempt, record.stage)), "readers")
                yield Edge(f"a second person reads the question of stage {record.stage}", read, fair=False)
        elif state.operator.step == "idle" and self.is_record_free(state):
            after = self._proceeded(state._replace(reader=None), *reader)
            label = "the second person confirms it" + (", and is refused" if after is None else "")
            problem = None
            if after is not None and record.status != "waiting":
                problem = f"S6: proceed sets a {record.status} record running"
            yield Edge(label, state._replace(reader=None) if after is None else after, problem)

    def _proceeded(self, state: State, attempt: int, stage: int) -> State | None:
        """Return the state after somebody has confirmed the question of this stage; None if it is refused."""
        record = state.record
        matches = (
            (record.status == "waiting" or (self.has("proceed_no_status") and record.status != "none"))
            and (record.attempt == attempt or self.has("proceed_no_attempt"))
            and (record.stage == stage or self.has("proceed_no_stage"))
        )
        if not matches:
            return None
        after = self.with_status(state, "running", planned=not self.has("proceed_not_planned"))
        confirmed = state.confirmed | ({stage} if attempt == record.attempt else frozenset())
        return after._replace(confirmed=confirmed, operator=Operator("send"))

    def replace_shards(self, state: State) -> Iterator[Edge]:
        """Update all shards, which waits for batches up to a limit. The record is already locked."""
        operator = state.operator
        waits = not self.has("replace_without_shards") and any(
            shard and not self.is_shard_free(state, index) for index, shard in enumerate(state.shards)
        )
        if waits:
            budget = state.budget._replace(verbs=state.budget.verbs + 1)
            given_up = state._replace(operator=Operator("idle"), budget=budget)
            yield Edge(f"{operator.verb} waits for a batch for too long, rolls back", given_up)
        else:
            waiting = state._replace(operator=operator._replace(step="replace_commit"))
            yield Edge(f"{operator.verb} UPDATEs the shards", waiting)

    def replace_commit(self, state: State) -> Iterator[Edge]:
        verb, record = state.operator.verb, state.record
        attempt = record.attempt + (0 if self.has("restart_keeps_attempt") and verb == "restart" else 1)
        if verb == "retry":
            shards = tuple(shard and self._moved(shard, attempt) for shard in state.shards)
            retried = self.with_status(state._replace(shards=shards), self._resumed(record), attempt=attempt)
            yield Edge(
                f"retry commits (attempt {attempt}, {retried.record.status})",
                self._without_tickets(retried)._replace(operator=Operator("send")),
            )
            return
        shards = state.shards if self.has("replace_without_shards") else (None,) * len(state.shards)
        if verb == "restart":
            new = Record(
                "queued", attempt, 0, planned=self.has("restart_keeps_plan") and record.planned, due=record.due
            )
            after = state._replace(record=new, shards=shards, rows=(0,) * len(state.rows), operator=Operator("send"))
            after = after._replace(confirmed=frozenset())
            yield Edge(f"restart commits (attempt {attempt})", self._without_tickets(after))
            return
        new = Record("none", record.attempt, 0, planned=False, due=record.due)
        if self.has("forget_keeps_shards"):
            shards = state.shards
        after = state._replace(record=new, shards=shards, operator=Operator("idle"))
        yield Edge("forget commits", self._without_tickets(after))

    def _moved(self, shard: Shard, attempt: int) -> Shard:
        """Return the shard as a retry moves it to the new attempt."""
        if self.has("replace_without_shards"):
            return shard
        if self.scenario.on_error == "continue" and shard.failed:
            shard = shard._replace(done=False)  # stands for one more shard, whose range is the failed objects
        if not self.has("retry_keeps_fence", "retry_keeps_fence_and_token"):
            shard = shard._replace(fence=shard.fence + 1)
        if not self.has("retry_keeps_token", "retry_keeps_fence_and_token"):
            shard = shard._replace(token=0)
        return shard._replace(attempt=attempt, stalled=0)

    def _without_tickets(self, state: State) -> State:
        """Return the state after the tickets of all shards were removed, so that the ticket of any job matches."""
        for index, shard in enumerate(state.shards):
            if shard:
                state = self.with_shard(state, index, ticketed=False)
            state = self._with_tickets(state, index, lambda _: NEXT)
        return state

    # The queue and recovery.

    def deliveries(self, state: State, i: int) -> Iterator[Edge]:
        steps = {"plan": "plan_read", "shard": "claim", "finish": "look_record"}
        for message in state.messages:
            worker = IDLE._replace(
                step=steps[message.kind],
                attempt=message.attempt,
                stage=message.stage,
                shard=max(message.shard, 0),
                ticket=message.ticket,
                job=message.kind if message.kind == "shard" or self.scenario.acks_late else "",
            )
            taken = state._replace(messages=state.messages - {message})
            yield Edge(f"worker {i} takes {message}", self.with_worker(taken, i, worker))
            if state.budget.faults and "dup" in self.scenario.kinds:
                again = self.with_worker(self.spent(state, "faults"), i, worker)
                yield Edge(f"worker {i} takes {message}, which will be delivered again", again, fair=False)

    def recoveries(self, state: State, i: int) -> Iterator[Edge]:
        for message in self._stuck(state):
            index = message.shard
            shard = state.shards[index] if index >= 0 else None
            if not (shard.due if shard else state.record.due):
                continue
            if self.scenario.explicit_due:  # read now, a conditional UPDATE next, sent after that
                reader = IDLE._replace(step="recover_update", shard=max(index, 0), sends=(message,))
                yield Edge(f"worker {i} recovers: reads {message} as due", self.with_worker(state, i, reader))
            elif message not in state.messages:
                yield Edge(f"recovery sends {message}", self.sent(state, message))

    def _stuck(self, state: State) -> Iterator[Message]:
        """Yield the jobs that recovery may find. It skips locked rows, because their owner is alive."""
        record = state.record
        if record.status not in ("queued", "running") or state.halted:
            return
        if self.is_record_free(state) or self.scenario.explicit_due:
            if not record.planned or record.status == "queued":
                if not self.has("recovers_no_later_plan" if record.stage else "recovers_no_plan"):
                    yield Message("plan", record.attempt, record.stage)
            elif self.are_all_done(state, record.stage, record.attempt) and not self.has("recovers_no_look"):
                yield Message("finish", record.attempt, record.stage)
        if record.status == "running" and record.planned:
            for index in self.undone(state, record.stage, record.attempt):
                shard = state.shards[index]
                guard = "recovers_no_abandoned" if shard and shard.token else "recovers_no_unclaimed"
                is_throttled = shard and shard.throttled
                if not self.has(guard) and self.is_shard_free(state, index) and not is_throttled:
                    yield self._copy(state, record, index)

    @staticmethod
    def _copy(state: State, run: Record | Worker, index: int) -> Message:
        """Return a job for a shard with the ticket in its row, or with a new ticket if there is none."""
        shard = state.shards[index]
        return Message("shard", run.attempt, run.stage, index, CURRENT if shard and shard.ticketed else NEXT)

    def do_recover_update(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        index = worker.sends[0].shard
        shard = state.shards[index] if index >= 0 else None
        is_due = shard.due if shard else state.record.due
        if index >= 0 and shard is None:
            yield Edge("recovers: the shard is gone", self.with_worker(state, i, IDLE))
        elif is_due or self.has("recover_unconditional"):
            if index < 0:
                after = state._replace(record=state.record._replace(due=False))
            else:
                after = self.with_shard(state, index, due=False)
            problem = None if is_due else "E2: two workers send for one passing of next_send_at"
            sender = worker._replace(step="recover_send")
            yield Edge("recovers: UPDATEs next_send_at", self.with_worker(after, i, sender), problem)
        else:
            yield Edge("recovers: loses the UPDATE", self.with_worker(state, i, IDLE))

    def do_recover_send(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        message = worker.sends[0]
        yield Edge(f"recovers: sends {message}", self.with_worker(self.sent(state, message), i, IDLE))

    # Plan: cut the stage's queryset into shards.

    def do_plan_read(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record = state.record
        if (
            (record.attempt != worker.attempt and not self.has("plan_no_attempt"))
            or (record.stage != worker.stage and not self.has("plan_no_stage"))
            or record.status not in ("queued", "running")
            or (state.halted and not self.has("plan_no_switch"))
        ):
            yield Edge("plans: not this attempt, stage or status; drops it", self.with_worker(state, i, IDLE))
        elif worker.stage in self.scenario.waits and not record.planned:
            yield Edge("plans: the stage waits", self.with_worker(state, i, worker._replace(step="wait_update")))
        elif record.planned and not self.has("plan_unconditional"):
            yield Edge("plans: planned already", self.with_worker(state, i, worker._replace(step="plan_lost")))
        else:
            updating = worker._replace(step="plan_update")
            problem = "S11: a stage is planned while everything is paused" if state.halted else None
            yield Edge("plans: splits the stage into shards", self.with_worker(state, i, updating), problem)

    def do_wait_update(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record = state.record
        if not self.is_record_free(state, i):
            return
        matches = (
            (record.status in ("queued", "running") or (self.has("wait_no_status") and record.status != "none"))
            and (record.attempt == worker.attempt or self.has("wait_no_attempt"))
            and (record.stage == worker.stage or self.has("wait_no_stage"))
            and (not record.planned or self.has("wait_no_planned"))
        )
        label = "waits: UPDATEs the record" if matches else "waits: zero rows"
        following = worker._replace(step="wait_commit") if matches else IDLE
        yield Edge(label, self.with_worker(state, i, following))

    def do_wait_commit(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record, problem = state.record, None
        if record.status not in ("queued", "running"):
            problem = f"S6: a {record.status} record is set waiting"
        elif record.stage != worker.stage:
            problem = f"S9: stage {record.stage} waits because stage {worker.stage} is to wait"
        elif record.planned:
            problem = f"S9: stage {record.stage} waits again after its question was confirmed"
        after = self.with_worker(self.with_status(state, "waiting"), i, IDLE)
        yield Edge("waits: commits", after, problem)

    def do_plan_update(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record = state.record
        if not self.is_record_free(state, i):
            return
        statuses: tuple[str, ...] = ("queued", "running")
        if self.has("plan_from_queued_only") or (self.has("back_to_running") and record.stage == 0):
            statuses = ("queued",)
        matches = (
            (record.status in statuses or self.has("plan_no_status"))
            and (record.attempt == worker.attempt or self.has("plan_no_attempt"))
            and (record.stage == worker.stage or self.has("plan_no_stage"))
            and (not record.planned or self.has("plan_unconditional"))
        )
        next_step = "plan_commit" if matches else "plan_lost"
        label = "plans: UPDATEs the record" if matches else "plans: zero rows"
        yield Edge(label, self.with_worker(state, i, worker._replace(step=next_step)))

    def do_plan_commit(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        indexes = range(1) if self.scenario.steals else self.shards_of(worker.stage)
        shards = list(state.shards)
        for index in indexes:
            shards[index] = Shard(worker.attempt, self.scenario.batches, due=not self.scenario.explicit_due)
        status = state.record.status
        after = self.with_status(state._replace(shards=tuple(shards)), "running", planned=True)
        for index in indexes:
            after = self._with_tickets(after, index, lambda _: NEXT)
        if status not in ("queued", "running"):
            yield Edge("plans: commits", after, f"S6: plan sets a {status} record running")
        elif self.has("send_before_commit"):
            label = "plans: its shard jobs, sent before the commit, find no shards; commits"
            yield Edge(label, self.with_worker(after, i, IDLE))
        elif not indexes:
            look = worker._replace(step="look_record")
            yield Edge("plans: commits, no shards", self.with_worker(after, i, look))
        else:
            sends = tuple(self._copy(after, worker, index) for index in indexes)
            yield Edge("plans: commits", self.with_worker(after, i, worker._replace(step="plan_send", sends=sends)))

    def do_plan_lost(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Send jobs for the shards that are not done: another worker planned the stage, and its jobs may be lost."""
        record = state.record
        left = self.undone(state, worker.stage, worker.attempt)
        is_running = self.is_run(state) and record.attempt == worker.attempt and record.stage == worker.stage
        if left and is_running:
            sends = tuple(self._copy(state, worker, index) for index in left)
            sender = worker._replace(step="plan_send", sends=sends)
            yield Edge(f"plans: will send shards {left}", self.with_worker(state, i, sender))
        elif left or self.has("loser_does_not_look"):
            yield Edge("plans: has nothing to send", self.with_worker(state, i, IDLE))
        else:
            look = worker._replace(step="look_record", noted=0)
            yield Edge("plans: has nothing to send, checks completion", self.with_worker(state, i, look))

    def do_plan_send(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        message, rest = worker.sends[0], worker.sends[1:]
        sender = worker._replace(sends=rest) if rest else IDLE
        yield Edge(f"plans: sends {message}", self.with_worker(self.sent(state, message), i, sender))

    # Shard job: claim the lease.

    def do_claim(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        c = self.scenario
        if not (c.halts or c.paces or c.is_limited):
            yield from self.do_claim_update(state, i, worker)
        elif state.halted and not self.has("claim_no_switch"):
            lost = worker._replace(step="claim_lost")
            yield Edge("claims: everything is paused", self.with_worker(state, i, lost))
        else:
            noted = 0
            if self.has("claim_counts_before_lock"):
                noted = SAW_ROOM if self.held(state, worker.shard)[0] < state.limit else 0
            reader = worker._replace(step="claim_update", limit=state.limit, noted=noted)
            yield Edge("claims: reads the pace", self.with_worker(state, i, reader))

    def do_claim_update(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        shard = self.shard_of(state, worker)
        if worker.limit and not self.has("claim_no_limit"):
            if not self.is_record_free(state, i):
                return
            live, dead = self.held(state, worker.shard)
            has_room = live < worker.limit
            if self.has("claim_counts_before_lock"):
                has_room = bool(worker.noted & SAW_ROOM)
            if not has_room or live + dead >= worker.limit:
                lost = worker._replace(step="claim_lost", noted=0)
                yield Edge("claims: the pace allows no further worker", self.with_worker(state, i, lost))
            if not has_room:
                return
        worker = worker._replace(noted=0)
        if shard is NO_SHARD:
            yield Edge("claims: no such shard", self.with_worker(state, i, IDLE))
            return
        is_free = self.is_shard_free(state, worker.shard)
        if not is_free and self.has("claim_waits"):
            return
        matches = (
            is_free
            and (worker.ticket != REPLACED or self.has("claim_ignores_ticket"))
            and (not shard.done or self.has("claim_no_done"))
            and (not shard.throttled or self.has("claim_no_throttled_until", "no_throttled_until"))
            and (
                shard.attempt == worker.attempt
                or self.has("claim_no_attempt", "no_attempt_anywhere", "replace_without_shards")
            )
        )
        if matches:
            owner = state.workers[shard.token - 1] if 0 < shard.token < DEAD else None
            problem = None
            if (
                owner
                and owner.step in BATCH_TRANSACTION
                and owner.shard == worker.shard
                and not owner.frozen
                and owner.transaction == OPEN
            ):
                problem = "E1: a shard is taken from a live worker in its batch"
            expired = " (its lease has expired)" if shard.token else ""
            problem = problem or self.too_many(state, worker.shard, worker.limit)
            if worker.ticket == REPLACED:
                problem = problem or "E4: a job claims although a later one has claimed before"
            claimed = self.with_shard(state, worker.shard, token=i + 1, ticketed=self.scenario.tickets)
            for after in self.with_claim(claimed, i, worker._replace(step="claim_read")):
                yield Edge(f"claims shard {worker.shard}{expired}", after, problem)
        if not matches or shard.token:
            lost = worker._replace(step="claim_lost")
            yield Edge(f"claims shard {worker.shard}: zero rows", self.with_worker(state, i, lost))

    def do_claim_lost(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record, shard = state.record, self.shard_of(state, worker)
        is_old = worker.attempt != record.attempt and not self.has("old_jobs_sent_again")
        if shard.done and self.is_run(state) and not is_old and not self.has("done_does_not_look"):
            look = worker._replace(step="look_record")
            yield Edge("its shard is done: checks completion", self.with_worker(state, i, look))
        elif shard.done or not self.is_run(state) or is_old or self.has("lost_claim_not_sent_again"):
            yield Edge("lost claim: drops the job", self.with_worker(state, i, IDLE))
        elif worker.ticket == REPLACED and not self.has("replaced_job_sent_again"):
            yield Edge("lost claim: a later job has claimed; drops its own", self.with_worker(state, i, IDLE))
        else:
            problem = None
            if worker.attempt != record.attempt:
                problem = "E3: a job of a replaced attempt is sent again and again"
            elif worker.ticket == REPLACED:
                problem = "E4: a job is sent again although a later one has claimed before"
            message = Message("shard", worker.attempt, worker.stage, worker.shard, worker.ticket)
            after = self.sent(self.with_worker(state, i, IDLE), message)
            yield Edge("lost claim: sends the job again", after, problem)

    def do_claim_read(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Execute the second statement of a claim: MariaDB has no RETURNING."""
        shard = self.shard_of(state, worker)
        reader = worker._replace(step="batch_begin", fence=shard.fence, upper=shard.upper, cursor=shard.cursor)
        yield Edge(f"reads fence {shard.fence}, cursor {shard.cursor}", self.with_worker(state, i, reader))

    def steals(self, state: State, i: int) -> Iterator[Edge]:
        """Take the last batch of the first shard from its worker, as a new shard that is already claimed.

        One transaction, which waits for the shard's row and passes over a record that is locked. A fence that is
        raised by two tells the owner from one whose batch has committed inside.
        """
        record, owned = state.record, state.shards[0]
        middle, upper = self.scenario.batches - 1, self.scenario.batches
        is_running = self.is_run(state) and record.planned and self.is_record_free(state)
        if not is_running or owned is None or state.shards[1] is not None or not self.is_shard_free(state, 0):
            return
        if owned.attempt != record.attempt or owned.done or not owned.token or owned.cursor >= middle:
            return
        if state.limit and self.held(state, 1)[0] >= state.limit and not self.has("steal_no_limit"):
            return
        problem = self.too_many(state, 1, state.limit)
        raised = 0 if self.has("steal_keeps_fence") else 1 if self.has("steal_raises_fence_by_one") else 2
        after = self.with_shard(state, 0, upper=middle, fence=owned.fence + raised)
        taken = Shard(record.attempt, upper, cursor=middle, token=i + 1, due=not self.scenario.explicit_due)
        after = after._replace(shards=(*after.shards[:1], taken))
        thief = IDLE._replace(
            step="batch_begin",
            attempt=record.attempt,
            stage=record.stage,
            shard=1,
            upper=upper,
            cursor=middle,
            ticket=NEXT,
            job="shard",
            limit=state.limit,
        )
        label = f"worker {i} takes the last batch of shard 0 as shard 1"
        yield Edge(label, self.with_worker(after, i, thief), problem, fair=False)

    # Batch.

    def do_batch_begin(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        shard = self.shard_of(state, worker)
        if worker.cursor >= worker.upper and not shard.failed:  # where a claim overlooks is_done
            yield Edge("finds nothing after the cursor", self.with_worker(state, i, IDLE))
            return
        release = self.with_worker(state, i, worker._replace(step="release", noted=CONTINUES))
        if worker.cursor > 0:
            yield Edge("is out of time", release)
        if state.budget.throttles and shard.token == i + 1 and not shard.throttled:
            throttled = self.with_shard(self.spent(state, "throttles"), worker.shard, throttled=True)
            yield Edge("stores a throttle's wait in the shard's row", throttled, fair=False)
        late = not self.is_run(state) or worker.limit != state.limit
        if self.has("no_begin"):
            begun = worker._replace(step="batch_status", late=late)
            yield Edge("begins a batch", self.with_worker(state, i, begun))
            return
        matches = (
            (
                shard.attempt == worker.attempt
                or self.has("begin_no_attempt", "no_attempt_anywhere", "replace_without_shards")
            )
            and (
                shard.fence == worker.fence
                or self.has("begin_no_fence", "begin_no_fence_no_token", "no_fence_no_read_again")
            )
            and (shard.token == i + 1 or self.has("begin_no_token", "begin_no_fence_no_token"))
        )
        if shard is NO_SHARD or not matches:  # the committed row does not match: no wait, zero rows
            again = worker._replace(step="read_again")
            yield Edge("begins a batch: zero rows", self.with_worker(state, i, again))
        elif shard.throttled and not self.has("begin_no_throttled_until", "no_throttled_until"):
            yield Edge("begins a batch: throttled", release)
        elif self.is_shard_free(state, worker.shard, i):
            begun = worker._replace(step="batch_status", fence=shard.fence, late=late)
            problem = "S7: a batch begins before its shard's throttled_until" if shard.throttled else None
            yield Edge(f"begins a batch of shard {worker.shard}", self.with_worker(state, i, begun), problem)

    def do_read_again(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Continue after a batch that did not end normally, if the worker still owns the shard.

        The commit may have succeeded although its answer was lost. One's own token with a fence one higher and an
        unmoved cursor: something inside the batch has committed.
        """
        shard = self.shard_of(state, worker)
        before, has_committed = worker, worker.work == COMMITTED_INSIDE
        worker = worker._replace(transaction=OPEN, late=False, work=NOTHING, noted=0)
        is_mine = shard.token == i + 1 and shard.attempt == worker.attempt and not shard.done
        is_proven = shard.fence == before.fence + 1 and shard.cursor == before.cursor
        if self.has("no_fence_no_read_again"):
            yield Edge("tries again", self.with_worker(state, i, worker._replace(step="batch_begin")))
        elif is_mine and is_proven and not self.has("hidden_commit_not_proven"):
            if self.is_shard_free(state, worker.shard, i):
                after = self.with_shard(state, worker.shard, failed=worker.attempt, fence=shard.fence + 1)
                problem = None if has_committed else "S8: a migration fails for a hidden commit that did not happen"
                failing = self.with_worker(after, i, worker._replace(step="record_fail"))
                yield Edge("proves the hidden commit, records the failure", failing, problem)
        elif is_mine:
            again = worker._replace(step="batch_begin", fence=shard.fence, upper=shard.upper, cursor=shard.cursor)
            yield Edge("reads its shard again", self.with_worker(state, i, again))
        elif shard.done and shard.attempt == worker.attempt:
            look = worker._replace(step="look_record")
            yield Edge("reads its shard again: done", self.with_worker(state, i, look))
        else:
            yield Edge("reads its shard again: it belongs to another worker", self.with_worker(state, i, IDLE))

    def do_batch_status(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        is_run = state.record.status == "running" if self.has("no_switch_read") else self.is_run(state)
        is_paced = worker.limit == state.limit or self.has("no_pace_read")
        if (is_run and is_paced) or self.has("no_status_read"):
            yield Edge("reads the status: continues", self.with_worker(state, i, worker._replace(step="batch_work")))
        else:
            release = worker._replace(step="release", noted=0, late=False)
            found = "everything is paused" if state.halted else state.record.status
            found = "the pace has changed" if is_run else found
            yield Edge(f"reads the status: {found}", self.with_worker(state, i, release))

    def do_batch_work(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        if self.scenario.never_ends and worker.shard == 0 and worker.cursor == 0:
            yield self._stalls(state, i, worker)
            return
        work = WORKED if worker.transaction == OPEN else WORKED_AFTER_ROLLBACK
        done = worker._replace(step="checkpoint", work=work)
        name = f"batch {worker.cursor} of shard {worker.shard}"
        yield Edge(f"works on {name}", self.with_worker(state, i, done))
        if state.budget.fails:
            step = "failure_checkpoint" if self.scenario.on_error == "stop" else "checkpoint"
            failed = self.with_worker(self.spent(state, "fails"), i, worker._replace(step=step, work=FAILED))
            yield Edge(f"{name} fails", failed, fair=False)
        if state.budget.faults and "hidden" in self.scenario.kinds:
            row = worker.shard * self.scenario.batches + worker.cursor
            rows = (*state.rows[:row], state.rows[row] + 1, *state.rows[row + 1 :])
            after = self.with_shard(
                self.spent(state, "faults")._replace(rows=rows), worker.shard, fence=worker.fence + 1
            )
            problem = None if rows[row] == 1 else f"S1: {name} is committed twice"
            inside = worker._replace(transaction=COMMITTED, work=COMMITTED_INSIDE)
            goes_on = self.with_worker(after, i, inside._replace(step="checkpoint"))
            yield Edge(f"{name} commits inside, and continues", goes_on, problem, fair=False)
            raises = self.with_worker(after, i, inside._replace(step="read_again"))
            yield Edge(f"{name} commits inside, then raises", raises, problem, fair=False)

    def _stalls(self, state: State, i: int, worker: Worker) -> Edge:
        """Roll back a batch that was refused in eight tries."""
        counted = worker._replace(step="stalled", transaction=OPEN, late=False)
        return Edge("its batch is refused in every try", self.with_worker(state, i, counted))

    def do_stalled(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Count a round without progress in the shard's row. Too many of them are a failure."""
        shard = self.shard_of(state, worker)
        if shard.token != i + 1 or shard.attempt != worker.attempt:
            yield Edge("counts a stalled round: the shard belongs to another worker", self.with_worker(state, i, IDLE))
        elif not self.is_shard_free(state, worker.shard, i):
            return
        elif shard.stalled + 1 >= MAX_STALLED:
            after = self.with_shard(state, worker.shard, failed=worker.attempt, fence=shard.fence + 1)
            failing = worker._replace(step="record_fail")
            yield Edge("records the failure of its last stalled round", self.with_worker(after, i, failing))
        else:
            stalled = shard.stalled if self.has("stalled_not_counted") else shard.stalled + 1
            release = worker._replace(step="release", noted=CONTINUES)
            after = self.with_shard(state, worker.shard, stalled=stalled)
            yield Edge(f"counts stalled round {stalled}", self.with_worker(after, i, release))

    def do_checkpoint(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Execute the batch's last UPDATE. If its transaction is gone, the WHERE is tested on the committed row."""
        shard = self.shard_of(state, worker)
        if worker.transaction != OPEN or self.has("no_begin"):
            fence = worker.fence + (0 if self.has("no_begin") else 1)
            matches = (shard.fence == fence or self.has("no_checkpoint_conditions", "checkpoint_no_fence")) and (
                (shard.token == i + 1 and shard.attempt == worker.attempt)
                or self.has("no_checkpoint_conditions", "checkpoint_fence_only")
            )
            if worker.transaction == COMMITTED and not self.has("checkpoint_no_mark"):
                matches = False  # the row, or a savepoint, tells that it is another transaction
            if shard is NO_SHARD or not matches:
                again = worker._replace(step="read_again")
                after = IDLE if self.has("no_begin") else again
                yield Edge("checkpoint: zero rows, rolls back", self.with_worker(state, i, after))
                return
            if not self.is_shard_free(state, worker.shard, i):
                return
        noted = WAS_ROLLED_BACK if worker.transaction == ROLLED_BACK else 0
        is_last = worker.cursor + 1 >= worker.upper
        if (
            self.has("finish_in_batch")
            and is_last
            and self.are_all_done(state, worker.stage, worker.attempt, worker.shard)
        ):
            noted |= SAW_ALL_DONE
        next_step = {"checkpoint": "batch_commit", "failure_checkpoint": "failure_commit"}[worker.step]
        # What committed inside was locked until then; the checkpoint locks the row again.
        written = worker._replace(step=next_step, noted=noted, transaction=OPEN)
        yield Edge(f"checkpoint of shard {worker.shard}", self.with_worker(state, i, written))

    do_failure_checkpoint = do_checkpoint

    def do_batch_commit(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        after, problem = self._committed(state, i, worker)
        shard = after.shards[worker.shard]
        assert shard is not None
        if shard.done and self.has("finish_in_batch"):
            yield self._finishes_in_batch(state, after, i, worker, problem)
            return
        following = worker._replace(
            step="look_record" if shard.done else "batch_begin",
            cursor=shard.cursor,
            fence=shard.fence,
            transaction=OPEN,
            late=False,
            work=NOTHING,
            noted=0,
        )
        label = f"commits batch {worker.cursor} of shard {worker.shard}" + (" (shard done)" if shard.done else "")
        yield Edge(label, self.with_worker(after, i, following), problem)
        if state.budget.faults and "unknown" in self.scenario.kinds:
            lost = self.with_worker(self.spent(after, "faults"), i, worker._replace(step="read_again"))
            yield Edge(f"{label}, but the answer is lost with the connection", lost, problem, False)

    def _committed(self, state: State, i: int, worker: Worker) -> tuple[State, str | None]:
        """Return the rows and the shard's row after the batch's commit, and any violation."""
        c, record, shard = self.scenario, state.record, self.shard_of(state, worker)
        is_kept = not worker.noted & WAS_ROLLED_BACK
        is_retry = worker.cursor >= worker.upper  # of the failed object, with on_error = continue
        first = 0 if c.steals else worker.shard * c.batches
        row = first + worker.cursor
        if is_retry:
            row = first + min((k for k in range(c.batches) if not state.rows[first + k]), default=0)
        rows = state.rows
        # What was written before an unnoticed rollback is gone with it; what was written after it is committed now.
        if worker.work == WORKED_AFTER_ROLLBACK or (worker.work == WORKED and is_kept):
            rows = (*rows[:row], rows[row] + 1, *rows[row + 1 :])
        fence = worker.fence + 1 if is_kept else shard.fence + self.has("no_begin")
        is_done = worker.cursor + 1 >= worker.upper
        after = self.with_shard(
            state._replace(rows=rows), worker.shard, cursor=worker.cursor + 1, done=is_done, fence=fence, stalled=0
        )
        if worker.work == FAILED:
            after = self.with_shard(after, worker.shard, failed=worker.attempt)
        elif shard.failed and (is_retry or (c.on_error == "stop" and not self.has("failure_not_resolved"))):
            after = self.with_shard(after, worker.shard, failed=0)
        if rows[row] > 1:
            return after, f"S1: batch {worker.cursor} of shard {worker.shard} is committed twice"
        if worker.attempt != record.attempt or record.status == "none":
            return after, "S3: a batch commits for a replaced attempt"
        if worker.late:
            return after, "S4: a batch that was begun after a pause, a cancel or a change of the pace commits"
        if shard.token != i + 1:
            return after, "S5: a worker commits after its shard was taken over"
        return after, None

    def _finishes_in_batch(self, state: State, after: State, i: int, worker: Worker, problem: str | None) -> Edge:
        """Run the completion check in the batch's transaction, for a mutation."""
        record = state.record
        is_mine = record.status == "running" and record.attempt == worker.attempt
        if worker.noted & SAW_ALL_DONE and self.is_record_free(state, i) and is_mine:
            after, other = self._move_on(after, worker, failed=self.has_failures(after, worker.attempt))
            return Edge("commits the batch and the finish", self.with_worker(after, i, IDLE), problem or other)
        return Edge("commits the batch; others are not done", self.with_worker(after, i, IDLE), problem)

    def do_failure_commit(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Record the failed object for on_error = stop, with the cursor before it."""
        after = self.with_shard(state, worker.shard, failed=worker.attempt, fence=worker.fence + 1)
        failing = worker._replace(step="record_fail", late=False, work=NOTHING, noted=0, transaction=OPEN)
        yield Edge(f"commits the failure in shard {worker.shard}", self.with_worker(after, i, failing))

    def do_record_fail(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Fail the record in a separate transaction: the lock order is record, then shards."""
        record = state.record
        if not self.is_record_free(state):
            return
        after = self.with_worker(state, i, worker._replace(step="release", noted=0))
        if record.attempt == worker.attempt and record.status in ("queued", "running"):
            yield Edge("fails the record", self.with_status(after, "failed"))
        else:
            yield Edge("fails the record: zero rows", after)

    def do_release(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        """Release the lease of a job that stops. The status is read after that."""
        shard = self.shard_of(state, worker)
        is_seen = worker.noted & (SAW_RUNNING | SAW_STOPPED)
        following = worker._replace(step="status_again")
        ends = IDLE if not self.has("continues_unowned") else following
        if self.has("reread_before_release") and not is_seen:
            is_running = self.is_run(state) and state.record.attempt == worker.attempt
            noted = worker.noted | (SAW_RUNNING if is_running else SAW_STOPPED)
            label = f"reads the status before the release: {state.record.status}"
            yield Edge(label, self.with_worker(state, i, worker._replace(noted=noted)))
        elif shard is NO_SHARD or (shard.token != i + 1 and not self.has("release_unconditional")):
            yield Edge("releases: the shard belongs to another worker", self.with_worker(state, i, ends))
        elif self.is_shard_free(state, worker.shard, i):
            released = self.with_shard(state, worker.shard, token=0)
            yield Edge(f"releases shard {worker.shard}", self.with_worker(released, i, following))

    def do_status_again(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        is_running = self.is_run(state) and state.record.attempt == worker.attempt
        if self.has("reread_before_release"):
            is_running = bool(worker.noted & SAW_RUNNING)
        if self.has("no_reread"):
            is_running = bool(worker.noted & CONTINUES)
        if not is_running:
            yield Edge("reads the status again: ends", self.with_worker(state, i, IDLE))
        elif worker.noted & CONTINUES:
            ended = self.with_worker(state, i, IDLE)
            # The row holds the ticket of the job that this one continues, unless somebody has claimed since.
            ticket = REPLACED if worker.ticket == REPLACED else NEXT
            message = Message("shard", worker.attempt, worker.stage, worker.shard, ticket)
            yield Edge("sends its continuation", self.sent(ended, message))
            if self.shard_of(state, worker).throttled and self.scenario.recovers:
                yield Edge("has to wait longer than a job can be delayed; recovery will send one", ended)
        else:
            claims = worker._replace(step="claim", fence=0, upper=0, cursor=0, noted=0)
            yield Edge("reads the status again: running, claims again", self.with_worker(state, i, claims))

    # The completion check: the record, then the shards, then failures, then one conditional UPDATE.

    def do_look_record(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record = state.record
        looks = self.with_worker(state, i, worker._replace(step="look_shards", noted=0))
        if self.has("look_skips_record") or (self.has("finish_no_planned") and record.status == "running"):
            yield from self.do_look_shards(state, i, worker._replace(noted=0))
        elif (
            record.planned
            and record.attempt == worker.attempt
            and record.stage == worker.stage
            and record.status == "running"
        ) or self.has("finish_no_attempt"):
            yield Edge("checks completion: the record is running and planned", looks)
        else:
            yield Edge("checks completion: not this attempt or stage, or not running", self.with_worker(state, i, IDLE))

    def do_look_shards(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        if self.has("look_reads_failures_first") and not worker.noted:
            noted = SAW_FAILURES if self.has_failures(state, worker.attempt) else SAW_NO_FAILURES
            noting = worker._replace(step="look_shards", noted=noted)
            yield Edge("checks completion: reads the failures", self.with_worker(state, i, noting))
        elif not self.are_all_done(state, worker.stage, worker.attempt):
            yield Edge("checks completion: not all shards are done", self.with_worker(state, i, IDLE))
        else:
            following = IDLE._replace(
                step="finish_update" if worker.noted else "look_failures",
                attempt=worker.attempt,
                stage=worker.stage,
                noted=worker.noted,
            )
            if self.scenario.acks_late:  # only then does it matter which message it was
                following = following._replace(shard=worker.shard, ticket=worker.ticket, job=worker.job)
            yield Edge("checks completion: all shards are done", self.with_worker(state, i, following))

    def do_look_failures(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        noted = SAW_FAILURES if self.has_failures(state, worker.attempt) else SAW_NO_FAILURES
        following = worker._replace(step="finish_update", noted=noted)
        yield Edge("checks completion: reads the failures", self.with_worker(state, i, following))

    def do_finish_update(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        record = state.record
        if not self.is_record_free(state, i):
            return
        matches = (
            (record.status == "running" or self.has("finish_no_status"))
            and (record.attempt == worker.attempt or self.has("finish_no_attempt"))
            and (record.stage == worker.stage or self.has("finish_no_stage"))
            and (record.planned or self.has("finish_no_planned"))
        )
        label = "finishes: UPDATEs the record" if matches else "finishes: zero rows"
        following = worker._replace(step="finish_commit") if matches else IDLE
        yield Edge(label, self.with_worker(state, i, following))

    def do_finish_commit(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        after, problem = self._move_on(state, worker, failed=bool(worker.noted & SAW_FAILURES))
        if after.record.status == "running" and not self.has("send_before_commit"):
            following = worker._replace(step="finish_send", stage=worker.stage + 1, noted=0)
            yield Edge("finishes: commits the next stage", self.with_worker(after, i, following), problem)
        else:
            yield Edge(f"finishes: commits {after.record.status}", self.with_worker(after, i, IDLE), problem)

    def do_finish_send(self, state: State, i: int, worker: Worker) -> Iterator[Edge]:
        plan = Message("plan", worker.attempt, worker.stage)
        yield Edge("sends plan of the next stage", self.with_worker(self.sent(state, plan), i, IDLE))

    def _move_on(self, state: State, worker: Worker, *, failed: bool) -> tuple[State, str | None]:
        """Return the record after the completion check, and any violation."""
        record, problem = state.record, None
        if record.status != "running":
            problem = f"S2: a record that is {record.status} is finished"
        if failed:
            return self.with_status(state, "failed"), problem
        if record.stage in self.scenario.waits - state.confirmed:
            problem = problem or f"S9: stage {record.stage} is left, and nobody has confirmed its question"
        if worker.stage + 1 < self.scenario.stages:
            return state._replace(record=record._replace(stage=worker.stage + 1, planned=False)), problem
        if not record.planned or not all(self.scenario.steals if not shard else shard.done for shard in state.shards):
            problem = problem or "S2: applied although not every shard of every stage is done"
        elif any(shard and shard.failed for shard in state.shards):
            problem = problem or "S2: applied with an unresolved failed object"
        elif any(count != 1 for count in state.rows):
            problem = problem or f"S1: applied although the batches were done {state.rows} times"
        return self.with_status(state, "applied"), problem


# ---- search


class Result(NamedTuple):
    """The result of the search of one scenario."""

    title: str
    scenario: str
    verdict: str
    """ok, violation or incomplete"""

    problem: str
    trace: list[str]
    states: int
    seconds: float


class Search:
    """A breadth-first search of every state, so that the first trace to a violation is a shortest one."""

    def __init__(self, model: Model, limit: int) -> None:
        self.model = model
        self._limit = limit
        first = model.canonical(model.initial())
        self._states = [first]
        self._index = {first: 0}
        self._parents = array("l", [-1])
        self._sources = array("l")
        self._targets = array("l")

    def run(self) -> tuple[str, str, list[str], int]:
        """Return the verdict, the problem, the trace to it and the number of states."""
        queue = deque([0])
        while queue:
            source = queue.popleft()
            for label, target, problem, is_fair in self.model.successors(self._states[source]):
                if problem:
                    return "violation", problem, [*self._trace(source), label], len(self._states)
                index = self._visit(self.model.canonical(target), source, queue)
                if is_fair:
                    self._sources.append(source)
                    self._targets.append(index)
            if len(self._states) > self._limit:
                return "incomplete", f"more than {self._limit} states", [], len(self._states)
        stuck = self._stuck()
        if stuck is None:
            return "ok", "", [], len(self._states)
        state = self._states[stuck]
        messages = ", ".join(map(str, sorted(state.messages))) or "none"
        problem = f"L: cannot end (it is {state.record.status}; messages: {messages})"
        return "violation", problem, self._trace(stuck), len(self._states)

    def _visit(self, state: State, parent: int, queue: deque[int]) -> int:
        index = self._index.setdefault(state, len(self._states))
        if index == len(self._states):
            self._states.append(state)
            self._parents.append(parent)
            queue.append(index)
        return index

    def _stuck(self) -> int | None:
        """Return the first active state from which fair steps cannot lead to an end."""
        before: list[list[int]] = [[] for _ in self._states]
        for source, target in zip(self._sources, self._targets, strict=True):
            before[target].append(source)
        alive = bytearray(len(self._states))
        found = [index for index, state in enumerate(self._states) if self._is_end(state)]
        for index in found:
            alive[index] = 1
        while found:
            for source in before[found.pop()]:
                if not alive[source]:
                    alive[source] = 1
                    found.append(source)
        active = ("queued", "running", "waiting")
        stuck = (k for k, state in enumerate(self._states) if not alive[k] and state.record.status in active)
        return next(stuck, None)

    @staticmethod
    def _is_end(state: State) -> bool:
        """Return whether the state is an end: applied, or cancelled or failed without a possible retry."""
        record = state.record
        if state.budget.verbs:
            return record.status == "applied"
        has_failed = record.status == "failed" and any(
            shard and shard.failed == record.attempt for shard in state.shards
        )
        return has_failed or record.status in ("applied", "cancelled", "none")

    def _trace(self, index: int) -> list[str]:
        """Return the labels on the way to a state, replayed without renaming, so that workers keep their numbers."""
        path = []
        while index >= 0:
            path.append(self._states[index])
            index = self._parents[index]
        path.reverse()
        state, labels = self.model.initial(), []
        for wanted in path[1:]:
            label, state = self._step(state, wanted) or self._step(self.model.canonical(state), wanted) or ("?", wanted)
            labels.append(label)
        return labels

    def _step(self, state: State, wanted: State) -> tuple[str, State] | None:
        for edge in self.model.successors(state):
            if self.model.canonical(edge.target) == wanted:
                return edge.label, edge.target
        return None


class Task(NamedTuple):
    """One search that a process is to make."""

    scenario: str
    mutations: tuple[str, ...]
    limit: int


def check(task: Task) -> Result:
    """Search one scenario."""
    started = time.monotonic()
    search = Search(Model(ALL_SCENARIOS[task.scenario], task.mutations), task.limit)
    verdict, problem, trace, states = search.run()
    title = " + ".join(task.mutations) or "protocol"
    return Result(title, task.scenario, verdict, problem, trace, states, time.monotonic() - started)


# ---- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the arguments name, and return the exit status."""
    options = _options(arguments)
    if options.list:
        _print_lists()
        return 0
    tasks = _tasks(options)
    status = states = 0
    with Pool(options.jobs) as pool:
        for result in pool.imap(check, tasks):
            is_expected = result.verdict == ("violation" if _is_caught(result.title) else "ok")
            mark = "" if is_expected else "  UNEXPECTED"
            print(
                f"{result.title:32} {result.scenario:16} {result.verdict:10} {result.states:9,} states "
                f"{result.seconds:6.1f} s  {result.problem}{mark}",
                flush=True,
            )
            if not options.quiet and (options.mutation or not is_expected):
                for number, label in enumerate(result.trace, 1):
                    print(f"    {number:2} {label}", flush=True)
            states += result.states
            status = max(status, 2 if result.verdict == "incomplete" else 0 if is_expected else 1)
    print(f"{len(tasks)} searches, {states:,} states; {'all as expected' if not status else 'NOT as expected'}.")
    return status


def _is_caught(title: str) -> bool:
    """Return whether a violation is the expected one."""
    return title != "protocol" and title not in UNSEEN


def _tasks(options: argparse.Namespace) -> list[Task]:
    def task(scenario: str, *mutations: str) -> Task:
        return Task(scenario, mutations, options.limit)

    chosen = options.scenario or [*SCENARIOS, *(DEEP_SCENARIOS if options.deep else [])]
    if options.mutation:
        return [task(scenario, *options.mutation) for scenario in chosen]
    tasks = [task(scenario) for scenario in chosen]
    if options.scenario:
        return tasks
    tasks += [task(scenario, name) for name, (scenario, _) in MUTATIONS.items()]
    if options.deep:
        tasks += [task(scenario, name) for name in UNSEEN for scenario in SCENARIOS]
    return tasks


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list scenarios and mutations")
    parser.add_argument("--deep", action="store_true", help="larger scenarios, and unseen mutations everywhere")
    parser.add_argument("-s", "--scenario", nargs="+", default=[], choices=list(ALL_SCENARIOS), metavar="SCENARIO")
    parser.add_argument("-m", "--mutation", nargs="+", default=[], choices=[*MUTATIONS, *UNSEEN], metavar="MUTATION")
    parser.add_argument("-n", "--limit", type=int, default=5_000_000, help="states of one search, at most")
    parser.add_argument("-q", "--quiet", action="store_true", help="no traces")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(arguments)


def _print_lists() -> None:
    for name, scenario in ALL_SCENARIOS.items():
        print(f"scenario  {name:32} {scenario.about}")
    for name, (seen_in, about) in MUTATIONS.items():
        print(f"mutation  {name:32} {about}; seen in {seen_in}")
    for name, (reason, about) in UNSEEN.items():
        print(f"mutation  {name:32} {about}; not seen: {reason}")


if __name__ == "__main__":
    sys.exit(main())
