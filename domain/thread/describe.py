"""Each event as one sentence of plain English."""

from collections.abc import Callable, Mapping
from functools import singledispatch
from string import Formatter
from typing import Any
from uuid import UUID

from msgspec.structs import asdict

from domain.ids import Version
from domain.json import Json, JsonObject
from domain.models.answers import Unusual
from domain.money import dollars
from domain.thread import events
from domain.thread.codec import to_json
from domain.windows import Span

MAX_QUOTED_LENGTH = 200
"""Characters of a quoted text or value, at most."""

TURN_ID_DIGITS = 8
"""Digits of a turn's id in a sentence."""


def refers_to(event: events.Event) -> Version | None:
    """Return the version of the earlier event that the sentence about this one needs."""
    match event:
        case events.ToolStarted() | events.ToolSucceeded() | events.ToolFailed() | events.ToolOutcomeUnknown():
            return Version(event.call)
        case events.ApprovalRequested() if event.call:
            return Version(event.call)
        case events.ApprovalGranted() | events.ApprovalDenied():
            return Version(event.approval)
        case events.MessageEdited():
            return Version(event.message)
        case events.QuestionAnswered():
            return Version(event.question)
        case _:
            return None


_TEMPLATES: Mapping[type[events.Event], str] = {
    events.ThreadOpened: "The thread was opened with the graph {graph} and {values:values}{subject:about}{limits:may}",
    events.ThreadForked: "The thread left the thread {parent} after its version {at_version}",
    events.TurnResumed: "The worker {worker} went on with the turn",
    events.ModelFailed: "The model {model}{provider:of} did not answer within {duration_ms:,} ms: {error:quoted}",
    events.ToolRequested: "The agent asked for {event:call}{fault:fault}",
    events.ApprovalGranted: "A person granted {about:call}{arguments:instead}",
    events.ApprovalDenied: "A person denied {about:call}: {reason:quoted}",
    events.ToolStarted: "{about:tool} was started{attempt:again}",
    events.ToolSucceeded: "{about:tool} answered in {duration_ms:,} ms: {content:quoted}",
    events.ToolFailed: "{about:tool} failed after {duration_ms:,} ms: {error:quoted}",
    events.ToolOutcomeUnknown: "The outcome of {about:call} is unknown: {error:quoted}",
    events.FanOutStarted: "The node began to work on {items:items}{each:with}",
    events.ItemAdvanced: "Item {index} completed its node {node} in {duration_ms:,} ms {next:next}: {values:json}",
    events.ItemCompleted: "Item {index} was done in {duration_ms:,} ms: {result:json}",
    events.ItemFailed: "Item {index} failed at attempt {attempt}: {error:quoted}{retry_in_ms:then}",
    events.NodeCompleted: "The node {node} completed in {duration_ms:,} ms {next:next}",
    events.NodeFailed: (
        "The node {node} failed at attempt {attempt} after {duration_ms:,} ms: {error:quoted}{retry_in_ms:then}"
    ),
    events.HistoryCompacted: "A summary took the place of the messages up to version {through}: {summary:quoted}",
    events.CancellationRequested: "Turn {turn_id:short} is to be {how:words}",
    events.TurnCompleted: "Turn {turn_id:short} completed{reason:but}",
    events.TurnFailed: "Turn {turn_id:short} failed ({reason:words}): {detail:quoted}",
    events.TurnCancelled: "Turn {turn_id:short} was {how}",
    events.TurnRolledBack: "Turn {turn_id:short} was rolled back: the thread is as it was before it",
}
"""Sentences that are the same for all events of a type. The formats of their fields are in `_FORMATS`."""


@singledispatch
def describe(event: events.Event, about: events.Event | None = None) -> str:
    """Return the sentence about an event. `about` is the event that this one refers to; see `refers_to`."""
    return _Formatter().format(_TEMPLATES[type(event)], event=event, about=about, **asdict(event))


@describe.register
def _(event: events.ModelAnswered, _: events.Event | None = None) -> str:
    asked = f" to {_quoted(event.prompt)}" if event.prompt else ""
    requested = f", and requested {', '.join(call.name for call in event.calls)}" if event.calls else ""
    return f"The model answered outside of the conversation{asked}: {_quoted(event.content or '')}{requested}"


@describe.register
def _(event: events.QuestionAsked, _: events.Event | None = None) -> str:
    asker = "A tool call" if event.call else "The node"
    return f"{asker} asked {'the customer' if event.to == 'customer' else 'a person'}: {_quoted(event.text)}"


@describe.register
def _(event: events.QuestionAnswered, about: events.Event | None = None) -> str:
    asked = f" to {_quoted(about.text)}" if isinstance(about, events.QuestionAsked) else ""
    return f"The answer{asked} is {_json(event.answer)}"


@describe.register
def _(event: events.MessageEdited, about: events.Event | None = None) -> str:
    whose = "A tool's answer"
    if isinstance(about, events.MessageAppended):
        whose = "The user's message" if about.role == "user" else "The agent's message"
    return f"{whose} of version {event.message} reads {_quoted(event.content)} from now on"


@describe.register
def _(event: events.BudgetSet, _: events.Event | None = None) -> str:
    if not event.limits:
        return "The budget was lifted: nothing limits what the thread may spend"
    return f"From now on the thread may spend {', '.join(map(limit_in_words, event.limits))}"


@describe.register
def _(event: events.TurnStarted, _: events.Event | None = None) -> str:
    why = f", to go on with turn {_short(event.retries)}" if event.retries else ""
    why = f", with the message that had waited since version {event.queued}" if event.queued else why
    version = f" of version {_quoted(event.agent_version)}" if event.agent_version else ""
    output = f", for an answer that fits the schema {_quoted(event.output.name)}" if event.output else ""
    return f"Turn {_short(event.turn_id)} began at the node {event.node}{version}{why}{output}"


@describe.register
def _(event: events.TurnEnqueued, _: events.Event | None = None) -> str:
    ends = {"interrupt": "which it interrupts", "rollback": "which it rolls back"}
    meanwhile = ends.get(event.strategy, "for whose end it waits")
    said = f"The user said {_quoted(event.content)} during a turn, {meanwhile}"
    return f"{said}; turn {_short(event.turn_id)} will be about it"


@describe.register
def _(event: events.MessageAppended, _: events.Event | None = None) -> str:
    who = "user" if event.role == "user" else "agent"
    if event.content is None:
        return f"The {who} said nothing and asked for tools"
    cut_off = ", and was cut off there" if event.partial else ""
    return f"The {who} said {_quoted(event.content)}{cut_off}{_but(event.finish or None)}"


@describe.register
def _(event: events.ContextAssembled, _: events.Event | None = None) -> str:
    before = f", a summary of those up to {event.summarised}" if event.summarised else ""
    pinned = f", the user's message of version {event.pinned}" if event.pinned else ""
    only = event.first == event.last
    shown = f"the message of version {event.last}" if only else f"the messages {event.first} to {event.last}"
    again = f", parts of {len(event.recalled)} older ones" if event.recalled else ""
    shown += pinned + again + before
    return f"The model was to see {shown}: {event.tokens:,} of at most {event.limit:,} tokens"


@describe.register
def _(event: events.ModelCalled, _: events.Event | None = None) -> str:
    about = "about " if event.estimated else ""
    cached = f" ({event.cached:,} of them cached)" if event.cached else ""
    tokens = f"{about}{event.prompt_tokens:,} tokens in{cached} and {event.completion_tokens:,} out"
    why = f" ({event.because})" if event.because else ""
    again = ", asked again," if event.hint else ""
    answered = f"The model {event.model}{why}{again} answered in {event.duration_ms:,} ms"
    without = f", without {' and '.join(event.omitted)}" if event.omitted else ""
    return f"{answered}{without}: {tokens}, finished by {event.finish_reason}"


@describe.register
def _(event: events.BudgetThresholdReached, _: events.Event | None = None) -> str:
    whose = "The thread" if event.scope == "thread" else "The tenant"
    whose = f"The subject {_quoted(event.subject)}" if event.subject else whose
    only = "".join(f" with {what}" for what in (event.agent, event.model) if what)
    spent = amounts_in_words(event.tokens, event.cost)
    return (
        f"{whose} has spent {spent}{only}, which is {event.limit.warn_at:.0%} or more of {limit_in_words(event.limit)}"
    )


@describe.register
def _(event: events.ApprovalRequested, about: events.Event | None = None) -> str:
    if event.because == "outcome_unknown":
        return f"A person has to say what became of {_call(about)}: its process died after it was started"
    if event.reason:
        return f"A person has to agree before {_call(about)} may go on: {_quoted(event.reason)}"
    return f"A person has to agree before {_call(about or event)} may run"


@describe.register
def _(event: events.StateUpdated, _: events.Event | None = None) -> str:
    who = "A caller changed the values during the turn" if event.outside else "The values changed"
    changed = [f"{k} was removed" if v is None else f"{k} is {_json(v)}" for k, v in event.changes.items()]
    return f"{who}: {_cut(', '.join(changed) or 'nothing differs')}"


def _but(finish: Unusual | None) -> str:
    return f", but {finish_in_words(finish)}" if finish else ""


def finish_in_words(finish: Unusual) -> str:
    """Return what is unusual about an answer, in words."""
    match finish:
        case "length":
            return "the answer reached its longest and is cut off"
        case "refusal":
            return "the model refuses to do what was asked"
        case "unknown_finish":
            return "the endpoint gives a reason for the answer's end that is not known here, or does not fit it"


def _call(about: events.Event | None) -> str:
    """Return the call or the node that a person decides about, or that was started: a call as code."""
    match about:
        case events.ToolRequested(tool=tool, arguments=arguments):
            return f"{tool}({_arguments(arguments)})"
        case events.ApprovalRequested(node=node):
            return f"the node {node}"
        case _:
            return "a call"


_WITHIN: Mapping[Span, str] = {
    "turn": "a turn",
    "hour": "an hour",
    "day": "a day",
    "month": "a month",
    "lifetime": "in all",
}


def limit_in_words(limit: events.Limit) -> str:
    """Return a limit in words, such as `1,000 tokens and $5 a day`."""
    return f"{amounts_in_words(limit.tokens, limit.cost)} {_WITHIN[limit.window]}"


def amounts_in_words(tokens: int | None, cost: int | None) -> str:
    """Return a number of tokens and an amount of money in words."""
    amounts = [] if tokens is None else [f"{tokens:,} tokens"]
    if cost is not None:
        amounts.append(f"${dollars(cost):,.12g}")
    return " and ".join(amounts)


def _tool(about: events.Event | None) -> str:
    return about.tool if isinstance(about, events.ToolRequested) else "A tool"


def _arguments(arguments: JsonObject) -> str:
    return _cut(", ".join(f"{name}={_json(value)}" for name, value in arguments.items()))


def _then(retry_in_ms: int | None) -> str:
    return "; there is no further attempt" if retry_in_ms is None else f"; the next attempt is in {retry_in_ms:,} ms"


def _short(turn_id: UUID) -> str:
    return turn_id.hex[:TURN_ID_DIGITS]


def _quoted(text: str) -> str:
    """Quote a text on one line."""
    return f'"{_cut(" ".join(text.split()))}"'


def _json(value: Json | Mapping[str, Json]) -> str:
    return _cut(to_json(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUOTED_LENGTH else f"{text[:MAX_QUOTED_LENGTH]}…"


_FORMATS: Mapping[str, Callable[[Any], str]] = {
    "may": lambda limits: f"; it may spend {', '.join(map(limit_in_words, limits))}" if limits else "",
    "about": lambda subject: f", about {_quoted(subject)}" if subject else "",
    "again": lambda attempt: f" again (attempt {attempt})" if attempt > 1 else "",
    "but": _but,
    "call": _call,
    "fault": lambda fault: f", which cannot be run: {_cut(fault)}" if fault else "",
    "instead": lambda others: "" if others is None else f" with other arguments: {_arguments(others)}",
    "items": lambda items: f"{len(items):,} item{'' if len(items) == 1 else 's'}",
    "json": _json,
    "next": lambda node: "and was the last one" if node == events.END else f"and {node} comes next",
    "of": lambda provider: f" of {provider}" if provider else "",
    "quoted": _quoted,
    "short": _short,
    "then": _then,
    "tool": _tool,
    "values": lambda values: f"the values {_json(values)}" if values else "no values",
    "with": lambda name: f", each with {name}" if name else "",
    "words": lambda name: name.replace("_", " "),
}


class _Formatter(Formatter):
    """Fills in templates, with formats of our own in addition to those of Python."""

    def format_field(self, value: Any, format_spec: str) -> str:
        known = _FORMATS.get(format_spec)
        return known(value) if known else format(value, format_spec)
