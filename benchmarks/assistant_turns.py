"""The events of turns as the built-in assistant records them: a question, a tool, an answer, with recorded texts."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from uuid import UUID, uuid4

from benchmarks.contestants.exchanges import exchange_of, said
from domain.ids import CommandId
from domain.log.hash_chain import Draft
from domain.prompt.compaction import compacted, overflows
from domain.thread.codec import Metadata, encode
from domain.thread.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from domain.thread.state import Idle, State
from infrastructure.token_counter import TiktokenCounter

LIMIT = 6_800
"""Tokens of a prompt, with the settings that a new user has: 8,000 without the room for the answer."""

FIXED = 239
"""Of these, the tokens of instructions and tools."""

TEXTS = ("ZimMjVstfrPAjlbENcoI7g", "YGDic1lFM6RuaIN4jOnvFg", "")

EVENTS = 17
"""Events of a turn."""

OPENED = ThreadOpened("assistant")


@cache
def count(text: str) -> int:
    """Count a text's tokens."""
    return _counter().count(text)


@cache
def _counter() -> TiktokenCounter:
    return TiktokenCounter()


def turn(
    number: int, before: int, turn_id: UUID | None = None, fact: HistoryCompacted | None = None, thread: int = 0
) -> list[Event]:
    """List a turn's events, which follow on a version. `fact`: older messages leave the live window."""
    name, call, question = turn_id or uuid4(), before + 7, said(thread, number)
    exchange = exchange_of(question)
    tokens = FIXED + 40 * (number % 100)
    used, answered = "gpt-4o-mini", count(exchange.answer)
    events: list[Event] = [
        TurnStarted(name, "route_intent", "f8c64785f83a"),
        MessageAppended("user", question, count(question)),
        NodeCompleted("route_intent", "generate_response", 1, 0),
        ContextAssembled(3, before + 2, tokens, LIMIT, fixed=FIXED, texts=TEXTS, of=before + 3),
        ModelCalled(used, tokens, 22, 640, "tool_calls", counted=tokens, provider="openai"),
        MessageAppended("assistant", None, 22),
        ToolRequested("call_1", exchange.tool, dict(exchange.arguments)),
        NodeCompleted("generate_response", "execute_tool", 1, 655),
        ToolStarted(call),
        ToolSucceeded(call, exchange.result, count(exchange.result), 12),
        NodeCompleted("execute_tool", "generate_response", 1, 29),
        ContextAssembled(3, before + 10, tokens + 31, LIMIT, fixed=FIXED, texts=TEXTS, of=before + 11),
        ModelCalled(used, tokens + 31, answered, 900, "stop", counted=tokens + 31, provider="openai"),
        MessageAppended("assistant", exchange.answer, answered),
        NodeCompleted("generate_response", "finalize_turn", 1, 910),
        NodeCompleted("finalize_turn", "END", 1, 0),
        TurnCompleted(name),
    ]
    return events if fact is None else [*events[:-2], fact, *events[-2:]]


def overflow(state: State) -> HistoryCompacted | None:
    """Say what leaves the live window, as the assistant does, once that holds more than a prompt could."""
    if not isinstance(state, Idle) or not overflows(state.thread.window, LIMIT - FIXED):
        return None
    return compacted(state.thread, LIMIT - FIXED, count)


def drafts(turns: int = 60) -> Sequence[Draft]:
    """Encode some turns' events, with the metadata that a worker's have."""
    metadata = Metadata(causation=CommandId(uuid4()))
    starts = accumulate([1, *[EVENTS] * (turns - 1)])
    return [encode(event, metadata) for number, before in enumerate(starts) for event in turn(number, before)]
