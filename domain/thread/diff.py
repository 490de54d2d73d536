"""The differences between two states of a thread, and counts of a range of events."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from domain.json import Json, JsonObject
from domain.thread import events
from domain.thread.state import State, Summary, Unopened

T = TypeVar("T")

Status: TypeAlias = Literal["unopened", "idle", "running", "waiting"]
"""`unopened`: before the first event. `waiting`: the turn needs a person's decision."""


class Changed(Struct, Generic[T], frozen=True):
    """A value before and after."""

    before: T
    after: T


class ValueChange(Struct, frozen=True):
    """A difference in the thread's values, at a JSON pointer (RFC 6901). Lists are compared as a whole."""

    pointer: str
    change: Literal["added", "changed", "removed"]
    before: Json | UnsetType = UNSET
    after: Json | UnsetType = UNSET


class Changes(Struct, frozen=True):
    """How two states differ. Null: the same in both. Numbers are how much was added."""

    status: Changed[Status] | None
    graph: Changed[str | None] | None
    summary: Changed[Summary | None] | None
    values: Sequence[ValueChange]
    turns: int
    prompt_tokens: int
    completion_tokens: int


class MessageCounts(Struct, frozen=True):
    """Messages by role."""

    user: int
    assistant: int
    tool: int


class TurnCounts(Struct, frozen=True):
    """Turns by what happened to them."""

    enqueued: int
    started: int
    completed: int
    failed: int
    cancelled: int
    rolled_back: int


class CallCounts(Struct, frozen=True):
    """Calls of one tool by their outcome. A call may have been requested before, or still be open."""

    requested: int
    succeeded: int
    failed: int
    unknown: int
    denied: int


class NodeCounts(Struct, frozen=True):
    """Attempts of one node."""

    completed: int
    failed: int


class TokenCounts(Struct, frozen=True):
    """Tokens of prompts and of answers."""

    prompt: int
    completion: int


class Counts(Struct, frozen=True):
    """Counts of a range of events."""

    events: Mapping[str, int]
    messages: MessageCounts
    turns: TurnCounts
    tool_calls: Mapping[str, CallCounts]
    nodes: Mapping[str, NodeCounts]
    model_calls: Mapping[str, int]
    tokens: TokenCounts


def status_of(state: State) -> Status:
    """Return the status of a thread."""
    if isinstance(state, Unopened):
        return "unopened"
    if state.waiting:
        return "waiting"
    return "running" if state.in_turn else "idle"


def compare(before: State, after: State) -> Changes:
    """Return how a later state differs from an earlier one."""
    was, now = (None if isinstance(state, Unopened) else state.thread for state in (before, after))
    return Changes(
        status=_changed(status_of(before), status_of(after)),
        graph=_changed(was.graph if was else None, now.graph if now else None),
        summary=_changed(was.summary if was else None, now.summary if now else None),
        values=list(_values(was.values if was else {}, now.values if now else {}, "")),
        turns=(now.turns if now else 0) - (was.turns if was else 0),
        prompt_tokens=(now.prompt_tokens if now else 0) - (was.prompt_tokens if was else 0),
        completion_tokens=(now.completion_tokens if now else 0) - (was.completion_tokens if was else 0),
    )


class Tally:
    """Counts events, one by one."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._nodes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._models: Counter[str] = Counter()
        self._prompt = self._completion = 0

    def add(self, event: events.Event, about: events.Event | None) -> None:
        """Count an event. `about` is the event that it refers to; see `domain.thread.describe.refers_to`."""
        self._events[type(event).__name__] += 1
        match event:
            case events.MessageAppended(role=role):
                self._messages[role] += 1
            case events.ModelCalled():
                self._models[event.model] += 1
                self._prompt += event.prompt_tokens
                self._completion += event.completion_tokens
            case events.NodeCompleted(node=node):
                self._nodes[node]["completed"] += 1
            case events.NodeFailed(node=node):
                self._nodes[node]["failed"] += 1
            case events.ToolRequested(tool=tool):
                self._calls[tool]["requested"] += 1
        if (outcome := events.CALL_OUTCOMES.get(type(event))) is not None and isinstance(about, events.ToolRequested):
            self._calls[about.tool][outcome] += 1
            self._messages["tool"] += 1

    def counts(self) -> Counts:
        """Return the counts so far."""
        return Counts(
            events=dict(self._events),
            messages=_numbers(self._messages, MessageCounts),
            turns=TurnCounts(**{name: self._events[kind.__name__] for kind, name in _COUNTED_TURNS.items()}),
            tool_calls={tool: _numbers(found, CallCounts) for tool, found in self._calls.items()},
            nodes={node: _numbers(found, NodeCounts) for node, found in self._nodes.items()},
            model_calls=dict(self._models),
            tokens=TokenCounts(self._prompt, self._completion),
        )


_COUNTED_TURNS: Mapping[type[events.Event], str] = {
    events.TurnEnqueued: "enqueued",
    events.TurnStarted: "started",
    **events.TURN_OUTCOMES,
}

N = TypeVar("N", MessageCounts, CallCounts, NodeCounts)


def _numbers(counter: Counter[str], kind: type[N]) -> N:
    return kind(**{name: counter[name] for name in kind.__struct_fields__})


def _changed(before: T, after: T) -> Changed[T] | None:
    return None if before == after else Changed(before, after)


def _values(before: JsonObject, after: JsonObject, place: str) -> Iterator[ValueChange]:
    """Compare two objects key by key, the keys of the first one first."""
    for key in (*before, *(key for key in after if key not in before)):
        pointer = f"{place}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in after:
            yield ValueChange(pointer, "removed", before=before[key])
        elif key not in before:
            yield ValueChange(pointer, "added", after=after[key])
        elif isinstance(before[key], dict) and isinstance(after[key], dict):
            yield from _values(before[key], after[key], pointer)
        elif _written(before[key]) != _written(after[key]):
            yield ValueChange(pointer, "changed", before=before[key], after=after[key])


def _written(value: Json) -> bytes:
    """Encode a value to compare it: in Python, `True == 1`."""
    return msgspec.json.encode(value, order="deterministic")
