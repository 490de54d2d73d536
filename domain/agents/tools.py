"""Tools: typed functions that a model may ask for.

```python
@tool(idempotent=True)
async def weather(city: str) -> str:
    \"\"\"Say what the weather is like in a city.\"\"\"
```

A plain function, without `async`, runs in a thread. After its timeout it has failed for the model, but the thread runs
on until the function returns: give what it calls a time limit as well.

The schema that the model is shown is derived by pydantic from the signature, and arguments are validated by it
before the function runs. A parameter annotated `ToolContext` is filled in by the runtime and not shown.
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
"""The names of tools that endpoints take. Gemini alone refuses those that begin with a digit or a dash."""

MAX_ARGUMENT_ERRORS = 10
"""Faults of a call's arguments that the model is told of."""

MAX_ARGUMENT_ERROR_CHARACTERS = 300
"""Characters of each."""

_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ToolContext(Struct, frozen=True):
    """What a tool may know of the call that it serves."""

    thread_id: ThreadId
    call_id: str
    """The model's label of the call; the model may use it more than once."""
    idempotency_key: str
    """The same whenever this call is run again; never the same for another call."""


ToolHandler: TypeAlias = Callable[[JsonObject, ToolContext], Awaitable[Any]]
"""Returns text. Typed loosely, since whoever writes one by hand may err, and the model is told so."""
ToolFunction: TypeAlias = Callable[..., Any]
"""Async, or plain: then it runs in a thread."""
Approval: TypeAlias = bool | Callable[[JsonObject], bool]
"""Whether a person has to agree to a call: always, never, or as its arguments say."""
IfUnknown: TypeAlias = Literal["ask_model", "ask_person"]


class Tool(Struct, frozen=True):
    """A tool as data: what the model is told, and how it is run.

    `timeout` is in seconds. `idempotent` says that running a call twice with the same idempotency key does no
    harm; only such a tool is run again when a crash left its outcome unknown. Of another one the model is told that,
    or a person decides (`if_unknown`). `approval` says which calls a person has to agree to before they run.
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
                "models take names of 1 to 64 ASCII letters, digits, _ and - only. Give it one: @tool(name=...)",
            )

    @property
    def name(self) -> str:
        """The name that the model calls it by."""
        return self.spec.name

    @property
    def after_crash(self) -> Literal["retry", "ask_model", "ask_person"]:
        """What becomes of a call whose process died while it ran."""
        return "retry" if self.idempotent else self.if_unknown

    def needs_approval(self, arguments: JsonObject) -> bool:
        """Say whether a person has to agree to a call."""
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
    """Make a tool of a function: its name, docstring and signature are what the model is told.

    The function returns text, or anything that pydantic can write as JSON. It raises `ToolError` to tell the
    model what went wrong. An async function runs on the event loop, and must not block it; a plain one runs in a
    thread. Of a `functools.partial`, what is bound by keyword is not shown to the model. An object that is called
    needs a `name`.
    """

    def build(function: ToolFunction) -> Tool:
        known_as = name or name_of(function)
        if known_as is None:
            raise TypeError(f"A tool made of a {type(function).__name__} needs a name: @tool(name=...)")
        if is_generator(function):
            raise TypeError(f"The tool {known_as} is {described(function)}: a tool returns its result, it yields none")
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
            raise TypeError(f"The tool {name} cannot take {parameter}: a parameter has a name and a type")
    # The fields have names of our own, so that a parameter may be called `schema` or `json` as well.
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
        if inspect.isawaitable(answer):  # a plain function that makes one, such as a decorator's
            answer = await answer
        return answer if isinstance(answer, str) else result.dump_json(answer).decode()

    spec = ToolSpec(name, doc_of(function) or name, _parameters(model.model_json_schema(by_alias=True)))
    return spec, run


def _parameters(schema: Mapping[str, Any]) -> JsonObject:
    """Drop what only repeats names: titles cost tokens in every prompt."""
    properties = {
        name: {key: value for key, value in described.items() if key != "title"}
        for name, described in schema.get("properties", {}).items()
    }
    kept = {key: value for key, value in schema.items() if key not in {"title", "properties"}}
    return {**kept, "properties": properties}


def _argument_errors(name: str, error: ValidationError) -> str:
    """Write a validation error so that a model can correct itself."""
    errors = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors(include_url=False)]
    wrong = [shortened(one, MAX_ARGUMENT_ERROR_CHARACTERS) for one in errors[:MAX_ARGUMENT_ERRORS]]
    more = f"; and {len(errors) - len(wrong)} more" if len(errors) > len(wrong) else ""
    return f"{name} cannot be called like this: {'; '.join(wrong)}{more}"


def unreadable(tool: Tool, fault: str) -> str:
    """Tell the model that a call was not run because of a fault, and what is expected."""
    required = tool.spec.parameters.get("required", ())
    parameters = [
        f"{name} (required)" if name in required else name for name in tool.spec.parameters.get("properties", {})
    ]
    expected = f"the parameters are {', '.join(parameters)}" if parameters else "it has no parameters"
    return f"{fault}\nNothing was run. Call {tool.name} again with its arguments as one JSON object; {expected}."
