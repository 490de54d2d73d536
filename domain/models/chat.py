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

CHARACTERS_PER_TOKEN = 3
"""Characters of JSON that make a token, at least."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """A model's wish to have a tool run. `id` is the model's label: unique within one answer at best.

    `written` is the beginning of what the model wrote in the place of the arguments, where that is not their JSON.
    A call with a `fault` cannot be run, because of what it says; its arguments are empty if they could not be read.
    `extra` is what else the endpoint said with it, such as a signature, to be returned to it.
    """

    id: str
    name: str
    arguments: JsonObject
    written: str = ""
    fault: str = ""
    extra: JsonObject = {}


def calls_text(calls: Sequence[ToolCall], *, shown: bool = False) -> str:
    """Write calls for counting their tokens: as the model wrote them, or as they are `shown` to it in prompts."""
    if not calls:
        return ""
    plain = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]
    written = "" if shown else "".join(call.written for call in calls)
    return msgspec.json.encode(plain).decode() + written


def estimate_tokens(calls: Sequence[ToolCall], extra: JsonObject | None = None) -> int:
    """Estimate the tokens of calls and of a message's `extra`, a little generously, where they cannot be counted."""
    size = sum(len(msgspec.json.encode(call)) for call in calls)
    return (size + (len(msgspec.json.encode(extra)) if extra else 0)) // CHARACTERS_PER_TOKEN


class ChatMessage(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of the prompt. An assistant's message may have no content but tool calls.

    `answers` is the place, among the calls of the message before, of the one that a tool's message answers: ids may
    repeat. `extra` is what else the provider said with an assistant's message, and `origin` names the endpoint that it,
    and the `extra` of the calls, came from: no other one is told.
    """

    role: Role
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    answers: int | None = None
    extra: JsonObject = {}
    origin: str = ""


class ToolSpec(Struct, frozen=True):
    """A tool as a model is told of it. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JsonObject


class ChatRequest(Struct, frozen=True):
    """One call of a model. `thread_id` goes along as a header, for gateways that attribute or cache by it.

    `patience` is how many seconds an endpoint that refuses may ask to wait before it is asked again. None: as many as
    the client allows, since no other model can be asked. `needs_tools`: a model that takes no tools is not to answer
    without them, but to raise `ToolsNotTaken`, since another model may take them.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    thread_id: ThreadId | None = None
    patience: float | None = None
    needs_tools: bool = False


class Usage(Struct, frozen=True):
    """Tokens as the endpoint counted them. It had `cached_tokens` of the prompt's in its cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class ChatAnswer(Struct, frozen=True):
    """What a model has said to its end. `usage` is None where the endpoint reports none.

    `refused`: the model says so itself that it does not do what was asked. Whether this is an answer at all, and a
    whole one, `domain.models.answers` says. `extra` is what else the endpoint said, and `origin` names the endpoint:
    see `ChatMessage`. `thoughts` are what the model wrote of its reasoning, for an estimate of its tokens. `omitted`
    names what the request asked for and the endpoint does not take: `tools`, `temperature`, `max_tokens`.
    """

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    usage: Usage | None = None
    extra: JsonObject = {}
    origin: str = ""
    omitted: tuple[str, ...] = ()
    refused: bool = False
    thoughts: str = ""


def written_of(answer: ChatAnswer) -> str:
    """Return all that a model has written, for an estimate of its tokens."""
    return (answer.content or "") + answer.thoughts + calls_text(answer.tool_calls)


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
    │   └── ToolsNotTaken       the model takes no tools, and the request needs them
    ├── AnswerCut               the stream ended before the answer did           transient
    ├── AnswerTooLarge          the answer passed the size limit
    ├── AnswerMalformed         not JSON, not a chat completion                  transient
    └── NoAnswer                the model stopped without an answer; it was asked again where that may help
        ├── AnswerEmpty         nothing, white space, or reasoning only
        └── AnswerFiltered      a content filter of the endpoint kept it back

    `transient` errors are worth another attempt: sampling and networks differ from time to time.

    An answer that cannot be used costs what it costs. `accepted`: the endpoint began to answer, so it has read the
    prompt. `usage` is what it reports by then, None where it reports nothing; `written` is what the model wrote by
    then (text, reasoning and calls), for an estimate. `finish_reason` is the endpoint's own, or else says what kept
    the answer from being used; `model` is what the endpoint calls its model, "" where it has not said.
    """

    transient: ClassVar[bool] = False
    accepted: bool = False
    usage: Usage | None = None
    written: str = ""
    finish_reason: str = "interrupted"
    model: str = ""


class Cost(Struct, frozen=True):
    """What had come of a call when it was cut off; the fields are those of `ModelError`."""

    accepted: bool = False
    usage: Usage | None = None
    written: str = ""


def note_cost(error: BaseException, cost: Cost) -> None:
    """Let the cancellation of a call say what had come of it: it is passed on through those who wait for the call."""
    error.__dict__[_COST_ATTRIBUTE] = cost


def cost_of(error: BaseException | None) -> Cost:
    """Return what had come of a call that ended with an error; nothing where that does not say."""
    if isinstance(error, ModelError):
        return Cost(error.accepted, error.usage, error.written)
    if isinstance(error, TimeoutError):  # made of the cancellation
        return cost_of(error.__cause__)
    found = error.__dict__.get(_COST_ATTRIBUTE) if error else None
    return found if isinstance(found, Cost) else Cost()


_COST_ATTRIBUTE = "model_call_cost"


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


class ToolsNotTaken(ModelRejectedRequest):
    """The model takes no tools."""


class AnswerCut(ModelError):
    """The model's answer ended before it was complete."""

    transient = True


class AnswerTooLarge(ModelError):
    """The model's answer is larger than the limit."""

    accepted = True
    finish_reason = "too_large"


class AnswerMalformed(ModelError):
    """The model's answer is not a chat completion."""

    transient = True
    accepted = True
    finish_reason = "malformed"


class NoAnswer(ModelError):
    """The model stopped without an answer. `reason` is what a turn fails with that ends so."""

    reason: ClassVar[Literal["empty_answer", "content_filter"]]


class AnswerEmpty(NoAnswer):
    """The model stopped without an answer."""

    reason = "empty_answer"
    at_limit: bool = False
    """Whether it had written as much as it may: reasoning, mostly."""


class AnswerFiltered(NoAnswer):
    """A content filter of the model's endpoint kept the answer back."""

    reason = "content_filter"
