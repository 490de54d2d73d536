"""Request bodies. Unknown fields are refused, so that a misspelt one is not silently without effect."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from domain.money import PER_DOLLAR, units
from domain.thread.events import Durability, Limit, Strategy
from domain.thread.limits import MAX_COST, MAX_TOKENS
from domain.windows import SPANS, Span

DEFAULT_GRAPH = "assistant"
MAX_INPUT = 200_000
MAX_BODY = 1_000_000
"""Bytes of a request's body."""
MAX_NAME = 200
"""Characters of the name of an agent or a model."""
MAX_DOLLARS = MAX_COST // PER_DOLLAR

MAX_THROTTLE = 2**31 - 1
"""The highest throttle that can be kept: it is stored in four bytes."""

UserInput = Annotated[
    str, Field(min_length=1, max_length=MAX_INPUT, description="What the user says.", examples=["What is 2 + 3?"])
]
CheckpointRef = Annotated[
    str | None,
    Field(description="The checkpoint that the caller has seen; 412 if the thread has moved on since."),
]
Values = Annotated[
    dict[str, Any], Field(description="The thread's own values: any JSON object without NUL or lone surrogates.")
]


IfBusy = Annotated[
    Strategy | None,
    Field(
        description="If a turn runs: reject this message (409), enqueue it, or end that turn first: interrupt keeps "
        "what it said, rollback undoes it. Without this, the agent's own choice."
    ),
]

WhenDurable = Annotated[
    Durability | None,
    Field(
        description="When the turn's events are stored: each step before the next (sync), at its end (turn), or behind "
        "its answer (async). Without this, the setting's."
    ),
]


class Body(BaseModel):
    """A JSON object with just these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Invoke(Body):
    """Say something to an agent; opens the thread if there is none."""

    user_input: UserInput
    thread_id: Annotated[UUID | None, Field(description="Any UUID; without one, a new thread is opened.")] = None
    checkpoint_ref: CheckpointRef = None
    graph: Annotated[
        str | None,
        Field(
            description="The thread's agent: 409 if it is open with another. Without one, a new thread gets assistant."
        ),
    ] = None
    strategy: IfBusy = None
    durability: WhenDurable = None


class OpenThread(Body):
    """Open a thread."""

    thread_id: Annotated[UUID | None, Field(description="Any UUID; without one, the server makes one.")] = None
    graph: Annotated[str, Field(description="The agent to talk to; see /v1/graphs.")] = DEFAULT_GRAPH
    values: Values = {}


class StartTurn(Body):
    """Say something in an open thread."""

    user_input: UserInput
    checkpoint_ref: CheckpointRef = None
    strategy: IfBusy = None
    durability: WhenDurable = None


class Rebuild(Body):
    """Build read models anew, at a speed that leaves room for others."""

    projections: Annotated[list[str], Field(min_length=1, description="The projections' names.")]
    throttle: Annotated[int | None, Field(ge=1, le=MAX_THROTTLE, description="Events a second, at most.")] = None


class Decide(Body):
    """Grant or deny what waits for a person, or settle what a crash left open."""

    decision: Annotated[
        Literal["grant", "deny", "settle"],
        Field(description="Whether it may run; or that it ran already, before a crash, with this result."),
    ]
    hash: Annotated[str, Field(description="The hash of what was shown; 409 if something else waits by now.")]
    arguments: Annotated[
        dict[str, Any] | None, Field(description="With grant: run the call with these arguments instead.")
    ] = None
    reason: Annotated[str | None, Field(max_length=10_000, description="With deny: what the model is told.")] = None
    result: Annotated[str | None, Field(max_length=MAX_INPUT, description="With settle: the call's result.")] = None


class MessageEdit(Body):
    """A message that reads otherwise in the fork."""

    version: Annotated[int, Field(ge=1, description="The message's version.")]
    content: Annotated[str, Field(max_length=MAX_INPUT, description="What it says now.")]


class ForkThread(Body):
    """Begin a thread as this one was."""

    at_version: Annotated[int | None, Field(ge=1, description="Where to leave; without it, where the thread is.")] = (
        None
    )
    thread_id: Annotated[UUID | None, Field(description="The fork's id; without one, the server makes one.")] = None
    messages: Annotated[tuple[MessageEdit, ...], Field(max_length=100, description="Messages to edit.")] = ()
    values: Annotated[dict[str, Any] | None, Field(description="A merge patch of the values.")] = None
    resume: Annotated[
        bool, Field(description="Go on with a turn that was running there. Otherwise it is cancelled in the fork.")
    ] = False


class UpdateValues(Body):
    """Change a thread's values by a JSON merge patch (RFC 7396): null removes."""

    values: Values
    checkpoint_ref: CheckpointRef = None


def _number(given: object) -> object:
    """Refuse what only looks like a number: the framework reads leniently, whatever a field says."""
    if isinstance(given, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004  (only this one is a complaint about the field)
    return given


class LimitBody(Body):
    """What may be spent in a window of time, in UTC, or by a turn: tokens, money, or both."""

    window: Span
    tokens: Annotated[
        int | None, BeforeValidator(_number), Field(ge=1, le=MAX_TOKENS, description="Of prompts and answers together.")
    ] = None
    cost_usd: Annotated[
        float | None, BeforeValidator(_number), Field(gt=0, le=MAX_DOLLARS, description="What they may cost.")
    ] = None
    warn_at: Annotated[
        float, BeforeValidator(_number), Field(gt=0, le=1, description="The share from which on it is spent sparingly.")
    ] = 0.8


def limit_of(given: LimitBody) -> Limit:
    """Read a limit in the domain's units."""
    return Limit(given.window, given.tokens, None if given.cost_usd is None else units(given.cost_usd), given.warn_at)


class SetBudget(Body):
    """Limit what a thread may spend, instead of what limited it before."""

    limits: Annotated[
        tuple[LimitBody, ...],
        Field(max_length=len(SPANS), description="At most one for each window; without any, the budget is lifted."),
    ]
    checkpoint_ref: CheckpointRef = None


class SetLimits(Body):
    """Limit what a tenant's agents may spend, instead of what limited just these calls before."""

    agent: Annotated[
        str | None, Field(min_length=1, max_length=MAX_NAME, description="Whose calls; without it, any agent's.")
    ] = None
    model: Annotated[
        str | None, Field(min_length=1, max_length=MAX_NAME, description="Calls of which model; without it, of any.")
    ] = None
    limits: Annotated[
        tuple[LimitBody, ...],
        Field(max_length=len(SPANS), description="At most one for each window; without any, they are lifted."),
    ]
