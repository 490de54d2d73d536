"""Request bodies. Unknown fields are refused, so that a misspelt one is not silently without effect."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_GRAPH = "assistant"
MAX_INPUT = 200_000
MAX_BODY = 1_000_000
"""Bytes of a request's body."""

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


class OpenThread(Body):
    """Open a thread."""

    thread_id: Annotated[UUID | None, Field(description="Any UUID; without one, the server makes one.")] = None
    graph: Annotated[str, Field(description="The agent to talk to; see /v1/graphs.")] = DEFAULT_GRAPH
    values: Values = {}


class StartTurn(Body):
    """Say something in an open thread."""

    user_input: UserInput
    checkpoint_ref: CheckpointRef = None


class UpdateValues(Body):
    """Change a thread's values by a JSON merge patch (RFC 7396): null removes."""

    values: Values
    checkpoint_ref: CheckpointRef = None
