"""Requests to chat models, their answers and their errors, in the terms of chat completions."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from domain.errors import ThreadfoldError
from domain.ids import ThreadId
from domain.json import JsonObject

MESSAGE_OVERHEAD = 4
"""Tokens of a message in addition to its text, in the usual chat formats."""

CHARACTERS_PER_TOKEN = 3
"""Minimum characters of JSON in a token: estimates with it are rather too high."""

MAX_TOOL_CALLS = 128
"""Calls that one answer of a model may make: each has at least three events."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """A tool call that a model requested. `id` is the model's label; not even all calls of one answer need have one.

    `written` is the beginning of what the model wrote as arguments, if that is not their JSON.
    A call with a `fault` cannot be run; the fault says why. Its arguments are empty if they could not be parsed.
    `extra` is what the endpoint sent in addition to the call, such as a signature. Prompts return it to the endpoint.
    """

    id: str
    name: str
    arguments: JsonObject
    written: str = ""
    fault: str = ""
    extra: JsonObject = {}


def calls_text(calls: Sequence[ToolCall], *, shown: bool = False) -> str:
    """Return calls as text, to count their tokens: as the model wrote them or, if `shown`, as prompts show them."""
    if not calls:
        return ""
    plain = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]
    written = "" if shown else "".join(call.written for call in calls)
    return msgspec.json.encode(plain).decode() + written


def estimate_tokens(calls: Sequence[ToolCall], extra: JsonObject | None = None) -> int:
    """Estimate the tokens of calls and of a message's `extra`, rather too high, where they cannot be counted."""
    size = sum(len(msgspec.json.encode(call)) for call in calls)
    return (size + (len(msgspec.json.encode(extra)) if extra else 0)) // CHARACTERS_PER_TOKEN


class ChatMessage(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of a prompt. An assistant's message may have tool calls and no content.

    A tool's message answers the call at the index `answers` of the calls of the message before it: ids may repeat.
    `extra` is what the endpoint `origin` sent in addition to an assistant's message. It, and the `extra` of the calls,
    are returned only to that endpoint.
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
    """A tool's description for models. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JsonObject


class OutputFormat(Struct, frozen=True):
    """The JSON that an answer must be: a schema, and its name of letters, digits, `_` and `-`.

    The schema is of type object where a model is asked for it.
    """

    name: str
    schema: JsonObject


class ChatRequest(Struct, frozen=True):
    """One model call. `thread_id` is sent as a header, for gateways that attribute or cache by it.

    `patience` is the longest time in seconds that an endpoint may ask the client to wait before a retry. None: as long
    as the client allows, because no other model can be asked. `needs_tools`: a model without tool support must raise
    `ToolsNotSupported` instead of answering without tools, because another model may support them. `output`: the answer
    must be such JSON. `question` is the digest of a question outside of the conversation, "" for the conversation.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    thread_id: ThreadId | None = None
    patience: float | None = None
    needs_tools: bool = False
    output: OutputFormat | None = None
    question: str = ""


class Usage(Struct, frozen=True):
    """Tokens as the endpoint counted them. `cached_tokens` of the prompt were in its cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class ChatAnswer(Struct, frozen=True):
    """A model's complete output. `usage` is None if the endpoint reports none.

    `refused`: the model itself says that it refuses the request. `domain.models.answers` checks whether the answer is
    usable. `extra` is what the endpoint `origin` sent in addition: see `ChatMessage`. `thoughts` is the model's
    reasoning, to estimate its tokens. `omitted` lists what the request asked for and the endpoint does not support:
    `tools`, `temperature`, `max_tokens`, and of an output `json_schema` or all of `response_format`.
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
    """Return everything that a model wrote, to estimate its tokens."""
    return (answer.content or "") + answer.thoughts + calls_text(answer.tool_calls)


OnDelta: TypeAlias = Callable[[str], None]
"""Called with each piece of text as it arrives. The text is provisional until the answer is returned."""


class ChatModel(Protocol):
    """A model that answers prompts."""

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer the request; stream if `on_delta` is given. Raises a `ModelError`, never returns half an answer."""

    async def close(self) -> None:
        """Close the connections."""


class ModelError(ThreadfoldError):
    """The model did not answer.

    ModelError
    ├── ModelUnreachable        no connection, or a time limit passed            transient
    ├── ModelOverloaded         429 or 5xx, after the client's own retries       transient
    ├── ModelRefused            401 and 403: the key is not accepted
    ├── ModelUnknown            404: no such model or path
    ├── ModelRejectedRequest    any other 4xx
    │   └── ToolsNotTaken       the model does not support tools, and the request needs them
    ├── AnswerCut               the stream ended before the answer did           transient
    ├── AnswerTooLarge          the answer is larger than the limit
    ├── AnswerMalformed         not JSON, or not a chat completion               transient
    ├── AnswerInvalid           not the JSON that was asked for, twice           transient
    └── NoAnswer                the model stopped without an answer, also after a second attempt if that may help
        ├── AnswerEmpty         nothing, white space, or reasoning only
        └── AnswerFiltered      a content filter of the endpoint withheld it

    `transient` errors are worth another attempt: sampling and networks vary.

    An unusable answer costs tokens, too. `accepted`: the endpoint began to answer, so it has read the prompt. `usage`
    is what the endpoint reported by then, or None. `written` is what the model wrote by then (text, reasoning and
    calls), for an estimate. `finish_reason` is the endpoint's, or says why the answer is unusable. `model` is the
    endpoint's name of the model, "" if it did not send one.
    """

    transient: ClassVar[bool] = False
    accepted: bool = False
    usage: Usage | None = None
    written: str = ""
    finish_reason: str = "interrupted"
    model: str = ""


class Cost(Struct, frozen=True):
    """What a call had cost when it was cut off. The fields are those of `ModelError`."""

    accepted: bool = False
    usage: Usage | None = None
    written: str = ""


def note_cost(error: BaseException, cost: Cost) -> None:
    """Attach the cost of a call to its cancellation, which carries it to the awaiting callers."""
    error.__dict__[_COST_ATTRIBUTE] = cost


def cost_of(error: BaseException | None) -> Cost:
    """Return the cost of a call that ended with an error; an empty `Cost` if the error has none."""
    if isinstance(error, ModelError):
        return Cost(error.accepted, error.usage, error.written)
    if isinstance(error, TimeoutError):  # its cause is the cancellation
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


class ToolsNotSupported(ModelRejectedRequest):
    """The model does not support tools."""


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


class AnswerInvalid(ModelError):
    """The model's answer is not what was asked for. `why` says how, without the answer itself."""

    transient = True

    @property
    def why(self) -> str:
        """What does not fit."""
        return str(self.__cause__ or self)


class NoAnswer(ModelError):
    """The model stopped without an answer. `reason` is the failure reason of a turn that ends with this error."""

    reason: ClassVar[Literal["empty_answer", "content_filter"]]


class AnswerEmpty(NoAnswer):
    """The model stopped without an answer."""

    reason = "empty_answer"
    at_limit: bool = False
    """Whether the model had reached its maximum length, usually by reasoning."""


class AnswerFiltered(NoAnswer):
    """A content filter of the model's endpoint withheld the answer."""

    reason = "content_filter"
