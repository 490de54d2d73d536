"""Request bodies. Unknown fields are refused, so that a misspelt one is not ignored silently."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from domain.agents.requested_output import DEFAULT_NAME, requested_output
from domain.application.replay.report import MAX_REPLAYED_THREADS
from domain.models.chat import OutputFormat
from domain.money import PER_DOLLAR, units
from domain.thread.events import Durability, Limit, Strategy
from domain.thread.limits import MAX_COST, MAX_TOKENS
from domain.thread.size_limits import MAX_SUBJECT_CHARACTERS
from domain.thread.state import TurnOutcome
from domain.windows import SPANS, Span
from projections.threads import REASONS

DEFAULT_GRAPH = "assistant"
MAX_INPUT = 200_000
MAX_NAME = 200
"""Characters of the name of an agent or a model."""
MAX_NAMES = 50
"""Names of statuses, outcomes or reasons in a filter."""
MAX_DOLLARS = MAX_COST // PER_DOLLAR

MAX_THROTTLE = 2**31 - 1
"""Events a second: the highest throttle that can be stored, in four bytes."""

UserInput = Annotated[
    str, Field(min_length=1, max_length=MAX_INPUT, description="What the user says.", examples=["What is 2 + 3?"])
]
CheckpointRef = Annotated[
    str | None,
    Field(description="The thread's checkpoint as the caller knows it; 412 if the thread has changed since."),
]
Subject = Annotated[
    str | None,
    Field(
        min_length=1, max_length=MAX_SUBJECT_CHARACTERS, description="The customer that the thread is about, by name."
    ),
]
Values = Annotated[
    dict[str, Any], Field(description="The thread's own values: any JSON object without NUL or lone surrogates.")
]


IfBusy = Annotated[
    Strategy | None,
    Field(
        description="If a turn runs: reject this message (409), enqueue it, or end that turn first: interrupt keeps "
        "its messages, rollback undoes them. Default: the agent's own choice."
    ),
]

WhenDurable = Annotated[
    Durability | None,
    Field(
        description="When the turn's events are stored: each step before the next (sync), at its end (turn), or behind "
        "its answer (async). Default: the setting DURABILITY."
    ),
]


class Body(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(Body):
    """What the answer of a turn must be: JSON that fits a schema."""

    schema_: Annotated[
        dict[str, Any], Field(alias="schema", description="A JSON schema; see docs/http.md for the keywords.")
    ]
    name: Annotated[
        str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="The schema's name, which models are shown.")
    ] = DEFAULT_NAME


OutputWanted = Annotated[
    Output | None,
    Field(description="What the turn's answer must be: JSON that fits a schema. Default: as the agent answers."),
]


def _number(given: object) -> object:
    """Refuse text and booleans, which the framework would convert to numbers."""
    if isinstance(given, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004  (a ValueError is reported as an error of the field)
    return given


Number = BeforeValidator(_number)


class LimitBody(Body):
    """A limit of tokens, money or both: for a window of time in UTC, or for each turn."""

    window: Span
    tokens: Annotated[
        int | None, Number, Field(ge=1, le=MAX_TOKENS, description="Of prompts and answers together.")
    ] = None
    cost_usd: Annotated[float | None, Number, Field(gt=0, le=MAX_DOLLARS, description="Their cost in dollars.")] = None
    warn_at: Annotated[
        float, Number, Field(gt=0, le=1, description="The share from which on to use cheaper models.")
    ] = 0.8


def limit_of(given: LimitBody) -> Limit:
    """Convert a limit to the domain's units."""
    return Limit(given.window, given.tokens, None if given.cost_usd is None else units(given.cost_usd), given.warn_at)


LimitBodies = Annotated[tuple[LimitBody, ...], Field(max_length=len(SPANS))]


class Invoke(Body):
    """Send a message to an agent. Opens the thread if it is new."""

    user_input: UserInput
    thread_id: Annotated[UUID | None, Field(description="Any UUID. Default: a new thread.")] = None
    checkpoint_ref: CheckpointRef = None
    graph: Annotated[
        str | None,
        Field(description="The thread's agent: 409 if it is open with another. Default for a new thread: assistant."),
    ] = None
    strategy: IfBusy = None
    durability: WhenDurable = None
    output: OutputWanted = None
    values: Annotated[
        dict[str, Any] | None,
        Field(description="Values of a new thread: any JSON object. 409 if the thread was opened with others."),
    ] = None
    subject: Annotated[Subject, Field(description="409 if the thread was opened with another one.")] = None
    limits: Annotated[
        LimitBodies | None, Field(description="Budget of a new thread. 409 if the thread was opened with another one.")
    ] = None


class OpenThread(Body):
    """Open a thread."""

    thread_id: Annotated[UUID | None, Field(description="Any UUID. Default: the server generates one.")] = None
    graph: Annotated[str, Field(description="The agent to talk to; see /v1/graphs.")] = DEFAULT_GRAPH
    values: Values = {}
    subject: Subject = None
    limits: Annotated[LimitBodies, Field(description="Its budget, as for PUT .../budget.")] = ()


class StartTurn(Body):
    """Send a message in an open thread."""

    user_input: UserInput
    checkpoint_ref: CheckpointRef = None
    strategy: IfBusy = None
    durability: WhenDurable = None
    output: OutputWanted = None


class Rebuild(Body):
    """Rebuild read models, with a throttle so that other work is not slowed down."""

    projections: Annotated[list[str], Field(min_length=1, description="The projections' names.")]
    throttle: Annotated[int | None, Field(ge=1, le=MAX_THROTTLE, description="Events a second at most.")] = None


class Decide(Body):
    """Grant or deny what waits for a person's approval, settle a call that a crash left open, or answer a question."""

    decision: Annotated[
        Literal["grant", "deny", "settle", "answer"],
        Field(description="Whether it may run; settle: it ran before a crash, with this result; answer a question."),
    ]
    hash: Annotated[str, Field(description="The hash from the approval; 409 if something else waits by now.")]
    arguments: Annotated[
        dict[str, Any] | None, Field(description="With grant: run the call with these arguments instead.")
    ] = None
    reason: Annotated[str | None, Field(max_length=10_000, description="With deny: the reason for the model.")] = None
    result: Annotated[str | None, Field(max_length=MAX_INPUT, description="With settle: the call's result.")] = None
    answer: Annotated[
        Any, Field(description="With answer: JSON that fits the question's `answer_schema`; text if it has none.")
    ] = None


def _flag(given: object) -> object:
    """Refuse text and numbers, which the framework would convert to true or false."""
    if not isinstance(given, bool):
        raise ValueError("must be true or false")  # noqa: TRY004  (a ValueError is reported as an error of the field)
    return given


Flag = BeforeValidator(_flag)


def _instant(given: object) -> object:
    """Refuse numbers, which the framework would take for seconds since 1970."""
    if given is not None and not (isinstance(given, str) and "-" in given[1:]):
        raise ValueError("must be an instant such as 2026-11-23T10:00:00Z")
    return given


def _reason(given: str) -> str:
    if given not in REASONS:
        raise ValueError(f"expected some of {', '.join(REASONS)}")
    return given


Outcomes = Annotated[
    tuple[TurnOutcome, ...], Field(max_length=MAX_NAMES, description="Only those whose last turn ended so.")
]
Reasons = Annotated[
    tuple[Annotated[str, AfterValidator(_reason)], ...],
    Field(max_length=MAX_NAMES, description="Only those whose last turn has one of these reasons, such as length."),
]


class ReplayFilter(Body):
    """Which threads to replay, the last opened first: as for GET /v1/threads."""

    status: Annotated[
        tuple[Literal["idle", "running", "waiting"], ...],
        Field(max_length=MAX_NAMES, description="Only threads with one of these statuses."),
    ] = ()
    outcome: Outcomes = ()
    reason: Reasons = ()
    graph: Annotated[str | None, Field(description="Only threads of this agent.")] = None
    search: Annotated[str | None, Field(description="Only threads with a message that has these words.")] = None
    title: Annotated[str | None, Field(description="Only threads whose title begins so.")] = None
    active_since: Annotated[
        datetime | None, BeforeValidator(_instant), Field(description="The earliest time of the last event.")
    ] = None
    active_before: Annotated[
        datetime | None, BeforeValidator(_instant), Field(description="The last event was before this.")
    ] = None


class ReplayThreads(Body):
    """Replay threads: those named in `threads`, or those that match `filter`."""

    threads: Annotated[
        tuple[UUID, ...] | None, Field(min_length=1, max_length=MAX_REPLAYED_THREADS, description="The threads' ids.")
    ] = None
    filter: ReplayFilter | None = None
    agent: Annotated[
        str | None, Field(description="Another registered agent to run the turns. Default: each thread's own.")
    ] = None
    live: Annotated[
        bool, Flag, Field(description="Ask the models again. This costs money, and no budget counts it.")
    ] = False
    only_different: Annotated[bool, Flag, Field(description="Leave out turns that are the same.")] = False
    limit: Annotated[
        int | None,
        Number,
        Field(ge=1, le=MAX_REPLAYED_THREADS, description="Threads at most. Default: all that are named, or 20."),
    ] = None


class MessageEdit(Body):
    """A message with another content in the fork."""

    version: Annotated[int, Field(ge=1, description="The message's version.")]
    content: Annotated[str, Field(max_length=MAX_INPUT, description="The new content.")]


class ForkThread(Body):
    """Fork this thread at a version."""

    at_version: Annotated[int | None, Field(ge=1, description="The last version to share. Default: the current.")] = (
        None
    )
    thread_id: Annotated[UUID | None, Field(description="The fork's id. Default: the server generates one.")] = None
    messages: Annotated[tuple[MessageEdit, ...], Field(max_length=100, description="Messages to edit.")] = ()
    values: Annotated[dict[str, Any] | None, Field(description="A JSON merge patch of the values.")] = None
    limits: Annotated[
        LimitBodies | None, Field(description="The fork's budget. Default: its parent's; an empty list lifts it.")
    ] = None
    resume: Annotated[
        bool, Field(description="Continue a turn that was running there. Otherwise it is cancelled in the fork.")
    ] = False


class UpdateValues(Body):
    """Change a thread's values by a JSON merge patch (RFC 7396): null removes."""

    values: Values
    checkpoint_ref: CheckpointRef = None


def output_of(given: Output | None) -> OutputFormat | None:
    """Convert a requested output. Raises `InvalidInput` if its schema is not accepted."""
    return None if given is None else requested_output(given.schema_, given.name)


Name = Annotated[str | None, Field(min_length=1, max_length=MAX_NAME)]


class SetBudget(Body):
    """Replace the budget of a thread."""

    limits: Annotated[LimitBodies, Field(description="At most one for each window; an empty list lifts the budget.")]
    checkpoint_ref: CheckpointRef = None


class SetLimits(Body):
    """Replace the limits of a tenant's calls, or of those by an agent, of a model, about a subject."""

    subject: Annotated[Subject, Field(description="Limit calls in threads about this customer. Default: all.")] = None
    agent: Annotated[Name, Field(description="Limit this agent's calls. Default: all calls.")] = None
    model: Annotated[Name, Field(description="Limit this model's calls. Default: all calls.")] = None
    limits: Annotated[LimitBodies, Field(description="At most one for each window; an empty list lifts the limits.")]
