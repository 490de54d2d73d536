"""Tools: typed functions that a model may call.

```python
@tool(idempotent=True)
async def weather(city: str) -> str:
    \"\"\"Say what the weather is like in a city.\"\"\"
```

A plain function, without `async`, runs in a thread. After its timeout the call has failed for the model, but the thread
goes on until the function returns: set timeouts on what the function calls, too.

Pydantic derives the schema for the model from the signature, and validates the arguments before the function runs. The
runtime passes the parameter annotated `ToolContext`; the model does not see it.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias, overload

from msgspec import Struct
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from domain.agents.callables import described, doc_of, is_async, is_generator, name_of
from domain.agents.error_text import shortened
from domain.agents.tool_threads import THREADS
from domain.errors import InvalidInput, ToolError
from domain.ids import ThreadId
from domain.json import JsonObject, copied
from domain.models.chat import ToolSpec

DEFAULT_TIMEOUT = 30.0

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Names of tools that endpoints accept. Only Gemini also refuses names that begin with a digit or a dash."""

MAX_ARGUMENT_ERRORS = 10
"""Maximum number of errors in a call's arguments that the model reads."""

MAX_ARGUMENT_ERROR_CHARACTERS = 300
"""Maximum characters of each of these errors."""

_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ToolContext(Struct, frozen=True):
    """The call that a tool is running for."""

    thread_id: ThreadId
    call_id: str
    """The model's label of the call; the model may use it more than once."""
    idempotency_key: str
    """The same for every attempt of this call, different for every other call."""


ToolHandler: TypeAlias = Callable[[JsonObject, ToolContext], Awaitable[Any]]
"""Returns text. Typed loosely, because a handwritten handler may return something else, which is a failure of it."""
ToolFunction: TypeAlias = Callable[..., Any]
"""Async or plain. A plain function runs in a thread."""
Approval: TypeAlias = bool | Callable[[JsonObject], bool]
"""Whether a person must approve a call: always, never, or depending on its arguments."""
IfUnknown: TypeAlias = Literal["ask_model", "ask_person"]


class Tool(Struct, frozen=True):
    """A tool as data: its description for the model, and how it is run.

    `timeout` is in seconds. `idempotent`: running a call twice with the same idempotency key does no harm. If a crash
    leaves the outcome of a call unknown, an idempotent tool is run again; for another tool, the model is told, or a
    person decides (`if_unknown`). `approval` says which calls a person must approve before they run.
    """

    spec: ToolSpec
    run: ToolHandler
    timeout: float = DEFAULT_TIMEOUT
    idempotent: bool = False
    if_unknown: IfUnknown = "ask_model"
    approval: Approval = False

    def __post_init__(self) -> None:
        """Check the name. Raises `InvalidInput`."""
        if not TOOL_NAME.fullmatch(self.spec.name):
            shown = shortened(self.spec.name, MAX_ARGUMENT_ERROR_CHARACTERS)
            raise InvalidInput(
                f"tool {shown!r}",
                "the name must be 1 to 64 ASCII letters, digits, _ or -. Set one with @tool(name=...)",
            )

    @property
    def name(self) -> str:
        """The name by which the model calls the tool."""
        return self.spec.name

    @property
    def after_crash(self) -> Literal["retry", "ask_model", "ask_person"]:
        """What happens to a call whose process died while it ran."""
        return "retry" if self.idempotent else self.if_unknown

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
) -> Tool | Callable[[ToolFunction], Tool]:
    """Make a tool of a function. The model sees the function's name, docstring and signature.

    The function returns text, or anything that pydantic can write as JSON. It raises `ToolError` to tell the model what
    went wrong. An async function runs on the event loop and must not block it; a plain one runs in a thread. Arguments
    that a `functools.partial` binds by keyword are not shown to the model. A callable object needs a `name`.

    Raises:
        TypeError: the function is a generator, or a parameter has no name or no type.
    """

    def build(function: ToolFunction) -> Tool:
        known_as = name or name_of(function)
        if known_as is None:
            raise TypeError(f"A tool made of a {type(function).__name__} needs a name: @tool(name=...)")
        if is_generator(function):
            raise TypeError(f"The tool {known_as} is {described(function)}; it must return its result, not yield it")
        spec, run = _build(function, known_as)
        return Tool(spec, run, timeout, idempotent, if_unknown, approval)

    return build if function is None else build(function)


def _build(function: ToolFunction, name: str) -> tuple[ToolSpec, ToolHandler]:
    bound = function.keywords if isinstance(function, functools.partial) else {}
    parameters = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in bound]
    context = next((p.name for p in parameters if p.annotation is ToolContext), None)
    shown = [p for p in parameters if p.name != context]
    for parameter in shown:
        if parameter.kind not in _NAMED_KINDS or parameter.annotation is parameter.empty:
            raise TypeError(f"The tool {name} cannot have the parameter {parameter}: it needs a name and a type")
    # The fields have generated names, so that parameters may have names such as `schema` or `json`.
    fields: dict[str, Any] = {
        f"field_{number}": (p.annotation, Field(... if p.default is p.empty else p.default, alias=p.name))
        for number, p in enumerate(shown)
    }
    model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    result = TypeAdapter[Any](Any)
    waits = is_async(function)

    async def run(arguments: JsonObject, call: ToolContext) -> str:
        try:
            valid = model.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(_argument_errors(name, error)) from error
        given = {p.name: getattr(valid, field) for field, p in zip(fields, shown, strict=True)}
        call_it = functools.partial(function, **given, **({context: call} if context else {}))
        answer = await (call_it() if waits else THREADS.run(call_it, f"tool {name!r}"))
        if inspect.isawaitable(answer):  # a plain function that returns an awaitable, such as a decorator's wrapper
            answer = await answer
        return answer if isinstance(answer, str) else result.dump_json(answer).decode()

    spec = ToolSpec(name, doc_of(function) or name, _parameters(model.model_json_schema(by_alias=True)))
    return spec, run


def _parameters(schema: Mapping[str, Any]) -> JsonObject:
    """Remove titles, which only repeat names and cost tokens in every prompt."""
    properties = {
        name: {key: value for key, value in described.items() if key != "title"}
        for name, described in schema.get("properties", {}).items()
    }
    kept = {key: value for key, value in schema.items() if key not in {"title", "properties"}}
    return {**kept, "properties": properties}


def _argument_errors(name: str, error: ValidationError) -> str:
    """Describe a validation error so that the model can correct its call."""
    errors = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors(include_url=False)]
    wrong = [shortened(one, MAX_ARGUMENT_ERROR_CHARACTERS) for one in errors[:MAX_ARGUMENT_ERRORS]]
    more = f"; and {len(errors) - len(wrong)} more" if len(errors) > len(wrong) else ""
    return f"{name} cannot be called like this: {'; '.join(wrong)}{more}"


def unreadable(tool: Tool, fault: str) -> str:
    """Return the text that tells the model why a call was not run, and which arguments are expected."""
    required = tool.spec.parameters.get("required", ())
    parameters = [
        f"{name} (required)" if name in required else name for name in tool.spec.parameters.get("properties", {})
    ]
    expected = f"the parameters are {', '.join(parameters)}" if parameters else "it has no parameters"
    return f"{fault}\nNothing was run. Call {tool.name} again with its arguments as one JSON object; {expected}."
