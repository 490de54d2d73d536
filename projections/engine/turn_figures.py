"""Figures of the turn in progress: what its events so far add up to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from domain.budget.prices import Prices
from domain.read_models.tables import indexed
from domain.thread import events
from domain.thread.events import END, Event
from domain.thread.state import Running

MAX_TEXT_CHARACTERS = 200
"""Characters of a message that are kept."""

MAX_TOOLS = 50
"""Different tools that are named."""


@dataclass(slots=True)
class TurnFigures:
    """What a turn has done so far, in its own thread: what a fork inherited is counted in its parent only.

    `node` is the node in flight, or the last one. `queued` is the version of the event that queued it, 0 if none did.
    `cost` is in the units of a price list. `tools` are the names of the tools that were called, in their order.
    """

    node: str
    retries: UUID | None = None
    queued: int = 0
    user_input: str | None = None
    answer: str | None = None
    tools: dict[str, None] = field(default_factory=dict)
    tool_calls: int = 0
    tool_failures: int = 0
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    waited_ms: int = 0

    def add(self, event: Event, prices: Prices) -> None:
        """Add an event of the turn."""
        if (count := _COUNTING.get(type(event))) is not None:
            count(self, event, prices)


def started(event: events.TurnStarted, after: Running) -> TurnFigures:
    """Begin the figures of a turn. One that retries another has no message of its own: it has that of the window."""
    figures = TurnFigures(event.node, event.retries, event.queued)
    if event.retries is not None:
        said = (message.content for message in reversed(after.thread.window) if message.role == "user")
        figures.user_input = beginning(next(said, None))
    return figures


def forked(figures: TurnFigures) -> TurnFigures:
    """Begin the figures of a fork's part of a turn that its parent had begun."""
    return TurnFigures(figures.node, figures.retries, 0, figures.user_input, figures.answer)


def beginning(text: str | None) -> str | None:
    """Return the beginning of a text."""
    if text is None or len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return f"{text[: MAX_TEXT_CHARACTERS - 1]}…"


def _said(figures: TurnFigures, event: events.MessageAppended, _: Prices) -> None:
    if event.role == "assistant":
        figures.answer = beginning(event.content) if event.content is not None else figures.answer
    elif figures.user_input is None:
        figures.user_input = beginning(event.content)


def _called(figures: TurnFigures, event: events.ModelCalled, prices: Prices) -> None:
    figures.model_calls += 1
    figures.prompt_tokens += event.prompt_tokens
    figures.completion_tokens += event.completion_tokens
    figures.cost += prices.of_call(event)


def _requested(figures: TurnFigures, event: events.ToolRequested, _: Prices) -> None:
    figures.tool_calls += 1
    if len(figures.tools) < MAX_TOOLS:
        figures.tools[indexed(event.tool)] = None


def _failed(figures: TurnFigures, _event: Event, _: Prices) -> None:
    figures.tool_failures += 1


def _completed(figures: TurnFigures, event: events.NodeCompleted, _: Prices) -> None:
    figures.node = event.node if event.next == END else event.next


_COUNTING: Mapping[type[Event], Callable[[TurnFigures, Any, Prices], None]] = {
    events.MessageAppended: _said,
    events.ModelCalled: _called,
    events.ToolRequested: _requested,
    events.ToolFailed: _failed,
    events.ToolOutcomeUnknown: _failed,
    events.NodeCompleted: _completed,
}
