"""Comparing a replayed turn with the recorded one."""

import json
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from domain.application.replay.recorded_answers import RecordedAnswers, outcome_of
from domain.budget.prices import Prices
from domain.ids import Version
from domain.json import JsonObject
from domain.money import dollars
from domain.thread import events
from domain.thread.codec import Recorded, to_json

_PLACE = re.compile(r" \(in \S+, \S+ line \d+\)")
"""The place of an error, which moves when the agent's file is edited."""

Fact: TypeAlias = tuple[str, ...]
"""What happened, without what depends on time, place and the number of attempts."""

Verdict: TypeAlias = Literal["same", "differs", "unknown"]
"""`unknown`: the first difference may come from something that the log does not have."""

OUTCOMES: dict[type[events.Event], str] = {
    events.TurnCompleted: "completed",
    events.TurnFailed: "failed",
    events.TurnCancelled: "cancelled",
    events.TurnRolledBack: "rolled_back",
}


class ToolUse(Struct, frozen=True):
    """A call of a tool that a turn requested."""

    tool: str
    arguments: JsonObject


class TurnSummary(Struct, frozen=True):
    """What happened in a turn. Tokens and cost are of all calls of models. `answer` is the agent's last message.

    `outcome` is `waiting` if the turn has not ended: it waits for an answer that was not recorded.
    """

    outcome: str
    reason: str | None
    answer: str | None
    tools: Sequence[ToolUse]
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class ReplayedTurn(Struct, frozen=True):
    """How a replayed turn compares. `parted` is the version of the first difference from the log, or None.

    `recorded` and `replayed` say what happened there. `unknown` says what the replay needed and the log does not have:
    then it is not known how the turn would have gone on. Prompts are in tokens, one number for each prompt of the
    conversation. `then` and `now` summarise the recorded and the replayed turn. A turn that differed before the replay
    needed what the log does not have `differs`, although `unknown` is set.
    """

    version: Version
    said: str
    parted: Version | None
    recorded: str | None
    replayed: str | None
    prompts_then: Sequence[int]
    prompts_now: Sequence[int]
    then: TurnSummary
    now: TurnSummary
    unknown: str | None = None
    verdict: Verdict = "same"


def compared(
    then: Sequence[Recorded], now: Sequence[Recorded], said: str, prices: Prices, answers: RecordedAnswers
) -> ReplayedTurn:
    """Compare the events of a recorded and of a replayed turn. `answers` knows what the log could not answer."""
    verdict: Verdict = "same"
    recorded, replayed = _facts(then), _facts(now)
    parted: Version | None = None
    one: str | None = None
    other: str | None = None
    for place in range(max(len(recorded), len(replayed))):
        was = recorded[place] if place < len(recorded) else None
        new = replayed[place] if place < len(replayed) else None
        if was is not None and was[1] is None:
            break  # a client cancelled the turn, or changed the thread: that cannot be replayed
        if was is None or new is None or was[1] != new[1]:
            parted = was[0] if was else then[-1].version
            depends = answers.known_to is not None and (new is None or new[0] > answers.known_to)
            verdict = "unknown" if depends else "differs"
            one, other = (" ".join(fact[1]) if fact and fact[1] else None for fact in (was, new))
            break
    prompts = [[r.event.tokens for r in turn if isinstance(r.event, events.ContextAssembled)] for turn in (then, now)]
    return ReplayedTurn(
        *(then[0].version, said, parted, one, other, prompts[0], prompts[1]),
        summarised(then, prices),
        summarised(now, prices),
        answers.unknown[0] if answers.unknown and parted is not None else None,
        verdict,
    )


def summarised(turn: Sequence[Recorded], prices: Prices) -> TurnSummary:
    """Summarise a turn's events."""
    calls = [r.event for r in turn if isinstance(r.event, events.ModelCalled)]
    said = [r.event.content for r in turn if isinstance(r.event, events.MessageAppended) and r.event.role != "user"]
    end = next((r.event for r in turn if isinstance(r.event, events.TurnEnd)), None)
    return TurnSummary(
        OUTCOMES[type(end)] if end else "waiting",
        end.reason if isinstance(end, events.TurnCompleted | events.TurnFailed) else None,
        next((text for text in reversed(said) if text), None),
        [ToolUse(r.event.tool, r.event.arguments) for r in turn if isinstance(r.event, events.ToolRequested)],
        sum(call.prompt_tokens for call in calls),
        sum(call.completion_tokens for call in calls),
        dollars(sum(prices.of_call(call) for call in calls)),
    )


def _facts(turn: Sequence[Recorded]) -> list[tuple[Version, Fact | None]]:
    """Return what happened in a turn, with the outcomes of tool calls in the order of the calls."""
    facts: list[tuple[Version, Fact | None]] = []
    outcomes: list[tuple[int, Version, Fact]] = []
    of_calls = {int(r.version) for r in turn if isinstance(r.event, events.QuestionAsked) and r.event.call}
    for entry in turn:
        if outcome := outcome_of(entry.event):
            call, succeeded, text = outcome
            outcomes.append((call, entry.version, ("a tool answers:" if succeeded else "a tool fails:", text)))
            continue
        if isinstance(entry.event, events.QuestionAnswered) and entry.event.question in of_calls:
            continue  # a replayed tool has its outcome, and asks nothing
        if (fact := _fact(entry.event)) is not None:
            facts += [(version, outcome_fact) for _, version, outcome_fact in sorted(outcomes)]
            outcomes = []
            facts.append((entry.version, fact or None))
    return facts


def _fact(event: events.Event) -> Fact | None:
    """Return the fact of an event. An empty fact ends the comparison; events with None are not compared."""
    match event:
        case events.MessageAppended():
            return (f"the {event.role} says:", event.content or "")
        case events.ToolRequested():
            return (f"{event.tool} is asked for:", json.dumps(event.arguments, sort_keys=True))
        case events.StateUpdated(outside=False):
            return ("values change:", json.dumps(event.changes, sort_keys=True))
        case events.NodeCompleted():
            return (f"{event.node} leads to", event.next)
        case events.QuestionAsked(call=0):
            return (f"the {event.to} is asked:", event.text)
        case events.QuestionAnswered():
            return ("the answer is", to_json(event.answer))
        case events.HistoryCompacted():
            return ("history is compacted to:", event.summary)
        case events.StateUpdated() | events.CancellationRequested():
            return ()
        case events.TurnFailed(reason="budget_exhausted" | "empty_answer" | "content_filter"):
            return ()
        case events.TurnFailed():
            return ("the turn fails:", event.reason, _PLACE.sub("", event.detail))
        case _ if isinstance(event, events.TurnEnd):
            return (type(event).__name__,)
        case _:
            return None
