"""Each event as one sentence of plain English."""

from collections.abc import Mapping
from functools import singledispatch
from uuid import UUID

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
        case (
            events.ToolStarted(call=call)
            | events.ToolSucceeded(call=call)
            | events.ToolFailed(call=call)
            | events.ToolOutcomeUnknown(call=call)
        ):
            return Version(call)
        case events.ApprovalRequested(call=call):
            return Version(call) if call else None
        case events.ApprovalGranted(approval=approval) | events.ApprovalDenied(approval=approval):
            return Version(approval)
        case events.MessageEdited(message=message):
            return Version(message)
        case _:
            return None


@singledispatch
def describe(event: events.Event, about: events.Event | None = None) -> str:
    """Return the sentence about an event. `about` is the event that this one refers to; see `refers_to`."""
    raise TypeError(f"There is no sentence for {type(event).__name__}, about {about}")


@describe.register
def _(event: events.ThreadOpened, _: events.Event | None = None) -> str:
    given = f"the values {_json(event.values)}" if event.values else "no values"
    about = f", about {_quoted(event.subject)}" if event.subject else ""
    return f"The thread was opened with the graph {event.graph} and {given}{about}"


@describe.register
def _(event: events.ThreadForked, _: events.Event | None = None) -> str:
    return f"The thread left the thread {event.parent} after its version {event.at_version}"


@describe.register
def _(event: events.MessageEdited, about: events.Event | None = None) -> str:
    match about:
        case events.MessageAppended(role="user"):
            whose = "The user's message"
        case events.MessageAppended():
            whose = "The agent's message"
        case _:
            whose = "A tool's answer"
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
    return f"Turn {_short(event.turn_id)} began at the node {event.node}{why}"


@describe.register
def _(event: events.TurnEnqueued, _: events.Event | None = None) -> str:
    meanwhile = {
        "interrupt": "which it interrupts",
        "rollback": "which it rolls back",
    }.get(event.strategy, "for whose end it waits")
    said = f"The user said {_quoted(event.content)} during a turn, {meanwhile}"
    return f"{said}; turn {_short(event.turn_id)} will be about it"


@describe.register
def _(event: events.TurnResumed, _: events.Event | None = None) -> str:
    return f"The worker {event.worker} went on with the turn"


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
def _(event: events.ModelFailed, _: events.Event | None = None) -> str:
    where = f" of {event.provider}" if event.provider else ""
    return f"The model {event.model}{where} did not answer within {event.duration_ms:,} ms: {_quoted(event.error)}"


@describe.register
def _(event: events.BudgetThresholdReached, _: events.Event | None = None) -> str:
    whose = "The thread" if event.scope == "thread" else "The tenant"
    only = "".join(f" with {what}" for what in (event.agent, event.model) if what)
    spent = amounts_in_words(event.tokens, event.cost)
    return (
        f"{whose} has spent {spent}{only}, which is {event.limit.warn_at:.0%} or more of {limit_in_words(event.limit)}"
    )


@describe.register
def _(event: events.ToolRequested, _: events.Event | None = None) -> str:
    fault = f", which cannot be run: {_cut(event.fault)}" if event.fault else ""
    return f"The agent asked for {_call(event)}{fault}"


@describe.register
def _(event: events.ApprovalRequested, about: events.Event | None = None) -> str:
    if event.because == "outcome_unknown":
        return f"A person has to say what became of {_call(about)}: its process died after it was started"
    if event.reason:
        return f"A person has to agree before {_call(about)} may go on: {_quoted(event.reason)}"
    return f"A person has to agree before {_call(about or event)} may run"


@describe.register
def _(event: events.ApprovalGranted, about: events.Event | None = None) -> str:
    others = "" if event.arguments is None else f" with other arguments: {_arguments(event.arguments)}"
    return f"A person granted {_call(about)}{others}"


@describe.register
def _(event: events.ApprovalDenied, about: events.Event | None = None) -> str:
    return f"A person denied {_call(about)}: {_quoted(event.reason)}"


@describe.register
def _(event: events.ToolStarted, about: events.Event | None = None) -> str:
    again = f" again (attempt {event.attempt})" if event.attempt > 1 else ""
    return f"{_tool(about)} was started{again}"


@describe.register
def _(event: events.ToolSucceeded, about: events.Event | None = None) -> str:
    return f"{_tool(about)} answered in {event.duration_ms:,} ms: {_quoted(event.content)}"


@describe.register
def _(event: events.ToolFailed, about: events.Event | None = None) -> str:
    return f"{_tool(about)} failed after {event.duration_ms:,} ms: {_quoted(event.error)}"


@describe.register
def _(event: events.ToolOutcomeUnknown, about: events.Event | None = None) -> str:
    return f"The outcome of {_call(about)} is unknown: {_quoted(event.error)}"


@describe.register
def _(event: events.FanOutStarted, _: events.Event | None = None) -> str:
    number = len(event.items)
    return f"The node began to work on {number:,} item{'' if number == 1 else 's'}"


@describe.register
def _(event: events.ItemCompleted, _: events.Event | None = None) -> str:
    return f"Item {event.index} was done in {event.duration_ms:,} ms: {_json(event.result)}"


@describe.register
def _(event: events.ItemFailed, _: events.Event | None = None) -> str:
    return f"Item {event.index} failed at attempt {event.attempt}: {_quoted(event.error)}{_then(event.retry_in_ms)}"


@describe.register
def _(event: events.StateUpdated, _: events.Event | None = None) -> str:
    who = "A caller changed the values during the turn" if event.outside else "The values changed"
    changed = [f"{k} was removed" if v is None else f"{k} is {_json(v)}" for k, v in event.changes.items()]
    return f"{who}: {_cut(', '.join(changed) or 'nothing differs')}"


@describe.register
def _(event: events.NodeCompleted, _: events.Event | None = None) -> str:
    following = "and was the last one" if event.next == events.END else f"and {event.next} comes next"
    return f"The node {event.node} completed in {event.duration_ms:,} ms {following}"


@describe.register
def _(event: events.NodeFailed, _: events.Event | None = None) -> str:
    failed = f"The node {event.node} failed at attempt {event.attempt} after {event.duration_ms:,} ms"
    return f"{failed}: {_quoted(event.error)}{_then(event.retry_in_ms)}"


@describe.register
def _(event: events.HistoryCompacted, _: events.Event | None = None) -> str:
    return f"A summary took the place of the messages up to version {event.through}: {_quoted(event.summary)}"


@describe.register
def _(event: events.CancellationRequested, _: events.Event | None = None) -> str:
    return f"Turn {_short(event.turn_id)} is to be {event.how.replace('_', ' ')}"


@describe.register
def _(event: events.TurnCompleted, _: events.Event | None = None) -> str:
    return f"Turn {_short(event.turn_id)} completed{_but(event.reason)}"


@describe.register
def _(event: events.TurnFailed, _: events.Event | None = None) -> str:
    return f"Turn {_short(event.turn_id)} failed ({event.reason.replace('_', ' ')}): {_quoted(event.detail)}"


@describe.register
def _(event: events.TurnCancelled, _: events.Event | None = None) -> str:
    return f"Turn {_short(event.turn_id)} was {event.how}"


@describe.register
def _(event: events.TurnRolledBack, _: events.Event | None = None) -> str:
    return f"Turn {_short(event.turn_id)} was rolled back: the thread is as it was before it"


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
    amounts = [
        *([f"{tokens:,} tokens"] if tokens is not None else []),
        *([f"${dollars(cost):,.12g}"] if cost is not None else []),
    ]
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
