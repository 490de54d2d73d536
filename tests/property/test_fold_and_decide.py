"""For any commands in any order, the fold never fails, and a repeated command causes no events."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from domain.budget.limits import used_in
from domain.errors import Conflict, InvalidInput
from domain.ids import DEFAULT_TENANT, ThreadId, TurnId, Version
from domain.json import JsonObject
from domain.log.hash_chain import EMPTY_HEAD, Record, chain_records, check_chain
from domain.models.chat import ChatRequest, ToolSpec
from domain.prompt.assemble import chat_message
from domain.thread.codec import Metadata, decode, encode, to_json
from domain.thread.commands import (
    CancelTurn,
    Command,
    CompleteNode,
    EditMessage,
    EndCall,
    FailAttempt,
    FailTurn,
    OpenThread,
    RecordModelCalls,
    RecordModelFailure,
    RecordThreshold,
    SetBudget,
    StartCalls,
    StartTurn,
    StopTurn,
    UpdateValues,
)
from domain.thread.decide import decide
from domain.thread.events import (
    BudgetThresholdReached,
    ContextAssembled,
    Event,
    HistoryCompacted,
    Limit,
    MessageAppended,
    ModelCalled,
    ModelFailed,
    StateUpdated,
    ToolRequested,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from domain.thread.evolve import evolve
from domain.thread.snapshot import LeanState, with_texts, without_texts
from domain.thread.state import INITIAL, Running, State, Unopened
from domain.windows import WINDOWS, Window
from infrastructure.models.openai.request import write_request
from tests.support.examples import examples
from tests.support.strict_chat import violations

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

NOTES = RecordModelCalls | RecordModelFailure | RecordThreshold
"""What is said of something that may happen again at any time: each time that it is said counts."""

turns = st.sampled_from([TurnId(UUID(int=n)) for n in range(1, 4)])
small = st.integers(0, 12) | st.just(10**400)
versions = st.integers(1, 40).map(Version)
texts = st.sampled_from(["", "hello", "hello " * 20, "\0", "\ud800", "😀"])
objects: st.SearchStrategy[JsonObject] = st.sampled_from(
    [{}, {"a": 1}, {"a": True}, {"a": None}, {"a": {"b": 1}}, {"a": {"b": None}}, {"a": float("inf")}, {"\0": 1}]
)

called = st.builds(ModelCalled, st.sampled_from(["m", "n"]), small, small, small, st.just("stop"))
calls_made = st.lists(called, max_size=3).map(tuple)

facts = st.one_of(
    st.builds(MessageAppended, st.sampled_from(["assistant", "assistant", "user"]), st.none() | texts, small),
    st.builds(ToolRequested, st.sampled_from(["a", "b"]), st.just("clock"), objects),
    st.builds(StateUpdated, objects),
    st.builds(HistoryCompacted, versions, texts, small),
    st.builds(ContextAssembled, versions, versions, small, small),
    called,
)

limits = st.builds(Limit, st.sampled_from(WINDOWS), st.none() | small, st.none() | small)
reached = st.builds(
    BudgetThresholdReached, st.sampled_from(["thread", "tenant"]), limits, st.just(NOON), st.integers(0, 12), st.just(0)
)
pauses = st.sampled_from([0, 0, 1, 60, 3_600, 86_400, 20 * 86_400]).map(lambda seconds: timedelta(seconds=seconds))


def reports(state: State) -> st.SearchStrategy[Command]:
    """Commands that mostly fit the turn in progress, so that histories get somewhere."""
    turn = st.just(TurnId(state.turn.turn_id)) if isinstance(state, Running) else turns
    step = st.just(state.turn.step) if isinstance(state, Running) else small
    attempt = st.just(state.turn.attempt) if isinstance(state, Running) else small
    calls = [call.version for call in state.turn.calls] if isinstance(state, Running) else []
    call = st.sampled_from(calls) if calls else versions
    outcome = st.sampled_from(["succeeded", "failed", "unknown"])
    fact_lists = st.lists(facts, max_size=4).map(tuple)
    thought = {"reasoning": "It is about time to look at the clock, " * 3}
    asking = st.sampled_from(
        [
            (MessageAppended("assistant", None, 1), ToolRequested("a", "clock", {})),
            (
                MessageAppended("assistant", " ", 1, extra=thought, origin="here"),
                ToolRequested("a", "clock", {"first": 1}),
                ToolRequested("a", "clock.now", {}, extra={"signature": "x"}),
            ),
        ]
    )
    return st.one_of(
        st.builds(CompleteNode, turn, step, fact_lists | asking, st.sampled_from(["x", "y", "z", "END"]), small),
        st.builds(FailAttempt, turn, step, attempt, texts, small, st.none() | small, calls=calls_made),
        st.builds(StartCalls, turn, st.lists(call, max_size=3).map(tuple)),
        st.builds(EndCall, turn, call, outcome, texts, small, small),
        st.builds(FailTurn, turn, st.sampled_from(["step_limit", "budget_exhausted"]), texts, calls=calls_made),
        st.builds(StopTurn, turn, st.none() | texts, small, calls=calls_made),
        st.builds(RecordModelCalls, turn, calls_made),
        st.builds(RecordModelFailure, turn, st.builds(ModelFailed, st.just("m"), st.just("p"), texts, small)),
    )


def commands(state: State) -> st.SearchStrategy[Command]:
    return st.one_of(
        st.builds(OpenThread, st.sampled_from(["assistant", "other"]), objects),
        st.builds(StartTurn, turns, texts, small, st.just("x"), st.just("f00")),
        st.builds(UpdateValues, objects),
        st.builds(EditMessage, versions, texts, small),
        st.builds(SetBudget, st.lists(limits, max_size=3).map(tuple)),
        st.builds(RecordThreshold, reached),
        st.builds(CancelTurn, turns),
        reports(state),
        reports(state),
    )


@settings(max_examples=examples(30), deadline=None)
@given(st.data())
def test_the_fold_takes_whatever_is_decided_and_a_repeated_command_decides_nothing(data: st.DataObject) -> None:
    state: State = INITIAL
    history: list[tuple[Event, datetime]] = []
    at = NOON
    for _ in range(data.draw(st.integers(1, 20))):
        command = data.draw(commands(state))
        try:
            events = decide(command, state)
        except (Conflict, InvalidInput):
            continue
        at += data.draw(pauses)
        for event in events:
            assert decode(sealed(event)).event == event
            state = evolve(state, event, at)
            history.append((event, at))
        assert isinstance(command, NOTES) or decide(command, state) == ()
        assert left_out(command, events) == []
        check_invariants(state)
        check_prompt(state)
        check_windows(history, state, at + data.draw(pauses))
    assert folded(history) == state
    checkpoint = msgspec.json.decode(to_json(without_texts(state)), type=LeanState)
    told = {version: history[version - 1][0] for version in (*checkpoint.texts, *checkpoint.extras)}
    assert with_texts(checkpoint, told) == state
    assert state.version == len(history)
    check_turns([event for event, _ in history])


def left_out(command: Command, events: Sequence[Event]) -> Sequence[ModelCalled]:
    """Return the calls of a report that was taken which are not on record by that."""
    if not events or not isinstance(command, FailAttempt | FailTurn | StopTurn | RecordModelCalls):
        return []
    return [called for called in command.calls if called not in events]


def folded(history: list[tuple[Event, datetime]]) -> State:
    state: State = INITIAL
    for event, at in history:
        state = evolve(state, event, at)
    return state


def sealed(event: Event) -> Record:
    """Store an event as far as it can be without a store, and check what is stored."""
    records, _ = chain_records(DEFAULT_TENANT, ThreadId(UUID(int=1)), EMPTY_HEAD, [encode(event, Metadata())], NOON)
    check_chain(records, EMPTY_HEAD)
    return records[0]


def check_invariants(state: State) -> None:
    """A prompt can be made of the window at any time: each outcome follows the request that it answers."""
    if not isinstance(state, Running):
        return
    window = state.thread.window
    assert window == tuple(sorted(window, key=lambda m: m.version))
    requested = [call for message in window for call in message.tool_calls]
    answered = [message for message in window if message.role == "tool"]
    assert len(requested) == len(answered) + len(state.turn.calls)


def check_prompt(state: State) -> None:
    """Strict endpoints accept a prompt of the whole window, with each result behind its own call."""
    if isinstance(state, Unopened):
        return
    messages = tuple(map(chat_message, state.thread.window))
    request = ChatRequest(messages, (ToolSpec("clock", "", {"type": "object"}),))
    body = json.loads(write_request(request, "m", ["stream", "tools"], "here"))
    assert violations(body, ["reasoning", "signature"]) == []
    for place, message in enumerate(messages):
        answered = [later for later in messages[place + 1 :][: len(message.tool_calls)] if later.role == "tool"]
        places = [later.answers for later in answered]
        assert len(set(places)) == len(places)


def check_windows(history: list[tuple[Event, datetime]], state: State, now: datetime) -> None:
    """What was used in the current windows is what the calls in them come to."""
    if isinstance(state, Unopened):
        return
    places: dict[Window, str] = {"hour": "%Y %m %d %H", "day": "%Y %m %d", "month": "%Y %m", "lifetime": ""}
    for window, place in places.items():
        calls: Counter[str] = Counter()
        prompts: Counter[str] = Counter()
        for event, at in history:
            if isinstance(event, ModelCalled) and at.strftime(place) == now.strftime(place):
                calls[event.model] += 1
                prompts[event.model] += event.prompt_tokens
        used = used_in(state.thread, window, now)
        assert {u.model: (u.calls, u.prompt_tokens) for u in used} == {m: (n, prompts[m]) for m, n in calls.items()}


def check_turns(history: list[Any]) -> None:
    """Each turn that ended has exactly one terminal event, and no two turns overlap."""
    running = None
    for event in history:
        match event:
            case TurnStarted():
                assert running is None
                running = event.turn_id
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                assert running == event.turn_id
                running = None
