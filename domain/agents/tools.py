"""Tools: typed functions that a model may call.

```python
@tool(idempotent=True)
async def weather(city: str) -> str:
    \"\"\"Say what the weather is like in a city.\"\"\"
```

A plain function, without `async`, runs in a thread. After its timeout the call has failed for the model, but the thread
goes on until the function returns: set timeouts on what the function calls, too.

Pydantic derives the schema for the model from the signature, and validates the arguments before the function runs. The
runtime passes the parameter annotated `ToolContext` or `ToolContext[Deps, Values]`; the model does not see it.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeAlias, get_origin, overload

from msgspec import Struct
from pydantic import TypeAdapter
from typing_extensions import TypeVar

from domain.agents.callables import described, doc_of, is_async, is_generator, name_of
from domain.agents.error_text import shortened
from domain.agents.graph import RetryPolicy
from domain.agents.output import output_of
from domain.agents.signature import Signature
from domain.agents.tool_threads import THREADS
from domain.errors import AnswerRequired, ApprovalRequired, InvalidInput
from domain.ids import ThreadId
from domain.json import Json, JsonObject, copied
from domain.models.chat import ToolSpec

DEFAULT_TIMEOUT = 30.0

MAX_RETRIES = 2
"""How often a tool may ask the model to call it again in a turn, by default."""

ONCE = RetryPolicy()
"""No further attempt after a failure."""

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Names of tools that endpoints accept. Only Gemini also refuses names that begin with a digit or a dash."""

MAX_REASON_CHARACTERS = 1_000
"""Characters of the reason for which a tool asks for approval."""

MAX_SHOWN_NAME_CHARACTERS = 300
"""Characters that an error shows of a name that is not accepted."""


T = TypeVar("T")

Deps = TypeVar("Deps", default=Any)
"""The type of the object that an agent was given for its tools."""

Values = TypeVar("Values", default=Any)
"""The type of the threads' values: the model of the agent's graph."""


class ToolContext(Struct, Generic[Deps, Values], frozen=True):
    """The call that a tool runs for, and what the tool may need.

    `ToolContext[Shop]` has `deps` of the type `Shop`, `ToolContext[Shop, Return]` also `values` of the type `Return`.
    """

    thread_id: ThreadId
    call_id: str
    """The model's label of the call; the model may use it more than once."""
    idempotency_key: str
    """The same for every attempt of this call, different for every other call."""
    subject: str = ""
    """The customer that the thread is about, as given when it was opened; "" if none was given."""
    actor: str = ""
    """Who sent the message that this turn answers: the request's `X-Actor`; "" without one."""
    deps: Deps = None  # type: ignore[assignment]
    """What the agent was given as `deps`: one object in each process."""
    _values: Callable[[], Values] = dict  # type: ignore[assignment]
    _approved: bool = False
    _answers: Mapping[int, Json] = {}
    _numbers: Iterator[int] = iter(())

    @property
    def values(self) -> Values:
        """The thread's values as they are when the call starts: a copy, so changing them has no effect."""
        return self._values()

    def require_approval(self, reason: str) -> None:
        """Let a person decide whether this call may go on. Returns at once if a person has granted it.

        Otherwise `ApprovalRequired` suspends the call, and the turn waits; an `except Exception` lets it pass. After a
        grant the tool runs again from its start, perhaps with arguments that the person changed. So call this
        before any effect. `reason` is what the person reads, cut to 1,000 characters.
        """
        if not self._approved:
            raise ApprovalRequired(shortened(reason, MAX_REASON_CHARACTERS) or "The tool asks for approval.")

    @overload
    def ask(self, question: str) -> str: ...
    @overload
    def ask(self, question: str, output: type[T]) -> T: ...
    @overload
    def ask(self, question: str, output: Any) -> Any: ...
    def ask(self, question: str, output: Any = str) -> Any:
        """Ask a person a question, and return the answer, of the type `output` (see `TurnContext.ask`).

        Without an answer, `AnswerRequired` suspends the call, and the turn waits; the person answers through the
        approvals API. Then the tool runs again from its start, perhaps in another process. So ask before any effect. An
        answer that does not fit is asked for again, with the error.
        """
        kind, shown = output_of(output), question
        while (number := next(self._numbers)) in self._answers:
            try:
                return kind.check(self._answers[number])
            except ValueError as error:
                shown = f"{question}\n\nThe last answer does not fit: {error}"
        raise AnswerRequired(shown, kind.schema, number)


ToolHandler: TypeAlias = Callable[[JsonObject, ToolContext], Awaitable[Any]]
"""Returns text. Typed loosely, because a handwritten handler may return something else, which is a failure of it."""
ToolFunction: TypeAlias = Callable[..., Any]
"""Async or plain. A plain function runs in a thread."""
Approval: TypeAlias = bool | Callable[[JsonObject], bool]
"""Whether a person must approve a call: always, never, or depending on its arguments."""
ToolCheck: TypeAlias = Callable[[JsonObject], object]
"""Raises `InvalidArguments` if a tool cannot be called with these arguments. Returns anything. Must have no effect."""
IfUnknown: TypeAlias = Literal["ask_model", "ask_person"]


class Tool(Struct, frozen=True):
    """A tool as data: its description for the model, and how it is run.

    `timeout` is in seconds. `idempotent`: running a call twice with the same idempotency key does no harm. If a crash
    leaves the outcome of a call unknown, an idempotent tool is run again; for another tool, the model is told, or a
    person decides (`if_unknown`). `approval` says which calls a person must approve before they run. `check` refuses
    arguments that do not fit: it is called before a person is asked, and for arguments that a person changes.

    `max_retries` is how often a `Retry` of the tool may ask the model to call it again in a turn. `retry` says how
    often, and after which delays, the runtime repeats a failed call of an idempotent tool before the model reads of a
    failure.
    """

    spec: ToolSpec
    run: ToolHandler
    timeout: float = DEFAULT_TIMEOUT
    idempotent: bool = False
    if_unknown: IfUnknown = "ask_model"
    approval: Approval = False
    check: ToolCheck | None = None
    max_retries: int = MAX_RETRIES
    retry: RetryPolicy = ONCE
    takes_context: bool = True
    """Whether the function uses its `ToolContext`. If not, the runtime does not look for the actor."""

    def __post_init__(self) -> None:
        """Check the name and the retries. Raises `InvalidInput`."""
        if not TOOL_NAME.fullmatch(self.spec.name):
            shown = shortened(self.spec.name, MAX_SHOWN_NAME_CHARACTERS)
            raise InvalidInput(
                f"tool {shown!r}",
                "the name must be 1 to 64 ASCII letters, digits, _ or -. Set one with @tool(name=...)",
            )

        if self.max_retries < 0:
            raise InvalidInput(f"tool {self.name!r}", f"max_retries must be 0 or more, not {self.max_retries}")
        if self.retry.attempts > 1 and not self.idempotent:
            raise InvalidInput(f"tool {self.name!r}", "retry needs idempotent=True, because it runs a call repeatedly")

    @property
    def name(self) -> str:
        """The name by which the model calls the tool."""
        return self.spec.name

    @property
    def longest(self) -> float:
        """The seconds that a call can take, with all attempts of its retry policy."""
        attempts = range(1, max(self.retry.attempts, 1) + 1)
        return sum(self.timeout + (self.retry.delay_after(attempt) or 0.0) for attempt in attempts)

    @property
    def after_crash(self) -> Literal["retry", "ask_model", "ask_person"]:
        """What happens to a call whose process died while it ran."""
        return "retry" if self.idempotent else self.if_unknown

    def check_arguments(self, arguments: JsonObject) -> None:
        """Raise `InvalidArguments` if the tool cannot be called with these arguments."""
        if self.check is not None:
            self.check(copied(arguments))

    def needs_approval(self, arguments: JsonObject) -> bool:
        """Return whether a person must approve a call."""
        return self.approval if isinstance(self.approval, bool) else self.approval(copied(arguments))


@overload
def tool(function: ToolFunction, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    idempotent: bool = False,
    if_unknown: IfUnknown = "ask_model",
    approval: Approval = False,
    max_retries: int = MAX_RETRIES,
    retry: RetryPolicy = ONCE,
) -> Callable[[ToolFunction], Tool]: ...
def tool(
    function: ToolFunction | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    idempotent: bool = False,
    if_unknown: IfUnknown = "ask_model",
    approval: Approval = False,
    max_retries: int = MAX_RETRIES,
    retry: RetryPolicy = ONCE,
) -> Tool | Callable[[ToolFunction], Tool]:
    """Make a tool of a function. The model sees the function's name, docstring and signature.

    The function returns text, or anything that pydantic can write as JSON. It raises `ToolError` to tell the model
    what went wrong, or `Retry` to ask for another call. An async function runs on the event loop and must not block
    it; a plain one runs in a thread. Arguments that a `functools.partial` binds by keyword are not shown to the
    model. A callable object needs a `name`.

    Raises:
        TypeError: the function is a generator, or a parameter has no name or no type.
    """

    def build(function: ToolFunction) -> Tool:
        known_as = name or name_of(function)
        if known_as is None:
            raise TypeError(f"A tool made of a {type(function).__name__} needs a name: @tool(name=...)")
        if is_generator(function):
            raise TypeError(f"The tool {known_as} is {described(function)}; it must return its result, not yield it")
        spec, run, signature = _build(function, known_as)
        takes_context = signature.context is not None
        settings = (timeout, idempotent, if_unknown, approval, signature.validate, max_retries, retry)
        return Tool(spec, run, *settings, takes_context=takes_context)

    return build if function is None else build(function)


def _build(function: ToolFunction, name: str) -> tuple[ToolSpec, ToolHandler, Signature]:
    signature = Signature(function, name, _is_context)
    context = signature.context
    result = TypeAdapter[Any](Any)
    waits = is_async(function)

    async def run(arguments: JsonObject, call: ToolContext) -> str:
        given = signature.validate(arguments)
        call_it = functools.partial(function, **given, **({context: call} if context else {}))
        answer = await (call_it() if waits else THREADS.run(call_it, f"tool {name!r}"))
        if inspect.isawaitable(answer):  # a plain function that returns an awaitable, such as a decorator's wrapper
            answer = await answer
        return answer if isinstance(answer, str) else result.dump_json(answer).decode()

    return ToolSpec(name, doc_of(function) or name, signature.schema), run, signature


def _is_context(annotation: Any) -> bool:
    return annotation is ToolContext or get_origin(annotation) is ToolContext


def unreadable(tool: Tool, fault: str) -> str:
    """Return the text that tells the model why a call was not run, and which arguments are expected."""
    required = tool.spec.parameters.get("required", ())
    parameters = [
        f"{name} (required)" if name in required else name for name in tool.spec.parameters.get("properties", {})
    ]
    expected = f"the parameters are {', '.join(parameters)}" if parameters else "it has no parameters"
    return f"{fault}\nNothing was run. Call {tool.name} again with its arguments as one JSON object; {expected}."
