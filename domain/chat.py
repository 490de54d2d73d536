"""What is said to a model and what it answers, in the terms of chat completions; and how that can fail."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from domain.errors import ThreadfoldError
from domain.ids import ThreadId
from domain.json import JsonObject

MESSAGE_OVERHEAD = 4
"""Tokens that a message costs beyond its text in the chat formats in use."""

CHARACTERS = 3
"""Characters of JSON that make a token, at least."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class ToolCall(Struct, frozen=True):
    """A model's wish to have a tool run. `id` is the model's label: unique within one answer at best."""

    id: str
    name: str
    arguments: JsonObject


def weight_of(calls: Sequence[ToolCall]) -> int:
    """Estimate the tokens of calls, a little generously, where nobody can count them."""
    return sum(len(msgspec.json.encode(call)) for call in calls) // CHARACTERS


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """One message of the prompt. An assistant's message may have no content but tool calls."""

    role: Role
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class ToolSpec(Struct, frozen=True):
    """A tool as a model is told of it. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JsonObject


class ChatRequest(Struct, frozen=True):
    """One call of a model. `thread_id` goes along as a header, for gateways that attribute or cache by it.

    `patience` is how many seconds an endpoint that refuses may ask to wait before it is asked again. None: as many as
    the client allows, since nobody else can be asked.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    thread_id: ThreadId | None = None
    patience: float | None = None


class Usage(Struct, frozen=True):
    """Tokens as the endpoint counted them. It had `cached_tokens` of the prompt's in its cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class ChatAnswer(Struct, frozen=True):
    """A whole answer, never part of one. `usage` is None where the endpoint reports none."""

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    usage: Usage | None = None


OnDelta: TypeAlias = Callable[[str], None]
"""Is handed each piece of text as it arrives. What it shows is provisional until the answer is returned."""


class ChatModel(Protocol):
    """A model that answers prompts."""

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer the request, streaming if `on_delta` is given. Raise a `ModelError`, never half an answer."""

    async def close(self) -> None:
        """Let connections go."""


class ModelError(ThreadfoldError):
    """The model did not answer.

    ModelError
    ├── ModelUnreachable        no connection, or a time limit passed            transient
    ├── ModelOverloaded         429 or 5xx, after the client's own retries       transient
    ├── ModelRefused            401 and 403: the key is not accepted
    ├── ModelUnknown            404: no such model or path
    ├── ModelRejectedRequest    any other 4xx
    ├── AnswerCut               the stream ended before the answer did           transient
    ├── AnswerTooLarge          the answer passed the size limit
    └── AnswerMalformed         not JSON, not a chat completion                  transient
        └── ToolArgumentsMalformed   a tool call whose arguments are no JSON object

    `transient` errors are worth another attempt: sampling and networks differ from time to time.
    """

    transient: ClassVar[bool] = False


class ModelUnreachable(ModelError):
    """The model's endpoint could not be reached in time."""

    transient = True


class ModelOverloaded(ModelError):
    """The model's endpoint is overloaded or failing."""

    transient = True


class ModelRefused(ModelError):
    """The model's endpoint did not accept the key. Check LLM_API_KEY."""


class ModelUnknown(ModelError):
    """The model's endpoint knows no such model or path. Check LLM_ENDPOINT and LLM_MODEL."""


class ModelRejectedRequest(ModelError):
    """The model's endpoint rejected the request."""


class AnswerCut(ModelError):
    """The model's answer ended before it was complete."""

    transient = True


class AnswerTooLarge(ModelError):
    """The model's answer is larger than the limit."""


class AnswerMalformed(ModelError):
    """The model's answer is not a chat completion."""

    transient = True


class ToolArgumentsMalformed(AnswerMalformed):
    """The model asked for a tool with arguments that are not a JSON object."""
