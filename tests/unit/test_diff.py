"""What differs between two states, in the thread's own terms."""

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from domain.json import JsonObject
from domain.thread.diff import (
    CallCounts,
    Changed,
    MessageCounts,
    NodeCounts,
    Tally,
    TokenCounts,
    ValueChange,
    compare,
)
from domain.thread.events import (
    ApprovalDenied,
    ApprovalRequested,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeFailed,
    StateUpdated,
    ThreadOpened,
    ToolFailed,
    ToolRequested,
    ToolSucceeded,
    TurnCompleted,
)
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Summary
from tests.support.given import A_RUNNING_TURN, TURN


def changes(before: JsonObject, after: JsonObject) -> list[tuple[str, str, object, object]]:
    was, now = (fold(INITIAL, [ThreadOpened("assistant", values)]) for values in (before, after))
    return [(v.pointer, v.change, v.before, v.after) for v in compare(was, now).values]


def test_equal_states_differ_in_nothing() -> None:
    state = fold(INITIAL, [ThreadOpened("assistant", {"a": {"b": [1]}}), *A_RUNNING_TURN[1:]])
    found = compare(state, state)
    assert found == replace(found, status=None, graph=None, summary=None, values=[], turns=0, prompt_tokens=0)
    assert found.completion_tokens == 0


def test_values_are_named_by_json_pointers() -> None:
    before: JsonObject = {"plan": "gold", "a/b": {"c~d": 1, "same": True}, "list": [1, 2], "gone": {"x": 1}}
    after: JsonObject = {"plan": "silver", "a/b": {"c~d": 2, "same": True}, "list": [1, 3], "new": {"y": None}}
    assert changes(before, after) == [
        ("/plan", "changed", "gold", "silver"),
        ("/a~1b/c~0d", "changed", 1, 2),
        ("/list", "changed", [1, 2], [1, 3]),
        ("/gone", "removed", {"x": 1}, UNSET),
        ("/new", "added", UNSET, {"y": None}),
    ]


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), (None, {}), ([], {}), ("1", 1)])
def test_values_of_other_types_differ(one: object, other: object) -> None:
    assert changes({"a": one}, {"a": other}) == [("/a", "changed", one, other)]


def test_the_order_of_keys_is_no_change() -> None:
    assert changes({"a": 1, "b": [{"c": 1, "d": 2}]}, {"b": [{"d": 2, "c": 1}], "a": 1}) == []


def test_a_thread_is_compared_with_nothing() -> None:
    found = compare(INITIAL, fold(INITIAL, [ThreadOpened("assistant", {"a": 1})]))
    assert (found.status, found.graph) == (Changed("unopened", "idle"), Changed(None, "assistant"))
    assert found.values == [ValueChange("/a", "added", after=1)]


def test_status_summary_turns_and_tokens_are_compared() -> None:
    was = fold(INITIAL, [ThreadOpened("assistant")])
    more = [ModelCalled("m", 10, 2, 1, "stop"), HistoryCompacted(3, "hello", 1)]
    found = compare(was, fold(INITIAL, [*A_RUNNING_TURN, *more]))
    assert found.status == Changed("idle", "running")
    assert found.summary == Changed(None, Summary(3, "hello", 1, 5))  # type: ignore[arg-type]
    assert (found.turns, found.prompt_tokens, found.completion_tokens) == (1, 10, 2)


def test_events_are_counted_by_what_they_mean() -> None:
    call, node = ToolRequested("c", "clock", {}), ApprovalRequested("h", node="sign")
    happened: list[tuple[Event, Event | None]] = [
        *[(event, None) for event in A_RUNNING_TURN],
        (MessageAppended("assistant", None, 1), None),
        (call, None),
        (ToolSucceeded(5, "noon", 1, 1), call),
        (ToolFailed(5, "broken", 1, 1), call),
        (ApprovalDenied(5, "no", 1), call),
        (ApprovalDenied(6, "no", 1), node),
        (ModelCalled("m", 10, 2, 1, "stop"), None),
        (NodeFailed("n", 1, "?", 1, 5), None),
        (NodeCompleted("n", "END", 2, 1), None),
        (StateUpdated({"a": 1}), None),
        (TurnCompleted(TURN), None),
    ]
    tally = Tally()
    for event, about in happened:
        tally.add(event, about)
    counts = tally.counts()
    assert counts.messages == MessageCounts(user=1, assistant=1, tool=3)
    assert counts.tool_calls == {"clock": CallCounts(requested=1, succeeded=1, failed=1, unknown=0, denied=1)}
    assert counts.nodes == {"n": NodeCounts(completed=1, failed=1)}
    assert (counts.turns.started, counts.turns.completed, counts.turns.failed) == (1, 1, 0)
    assert (counts.model_calls, counts.tokens) == ({"m": 1}, TokenCounts(10, 2))
    assert (sum(counts.events.values()), counts.events["ApprovalDenied"]) == (len(happened), 2)
