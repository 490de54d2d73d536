"""A tool's parameters, as its function's signature gives them: their schema for the model, and their validation."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, create_model

from domain.agents.error_text import shortened
from domain.errors import InvalidArguments
from domain.json import JsonObject

MAX_ARGUMENT_ERRORS = 10
"""Maximum number of errors in a call's arguments that the model reads."""

MAX_ARGUMENT_ERROR_CHARACTERS = 300
"""Maximum characters of each of these errors."""

_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature:
    """The parameters of a tool's function. `context` is the name of the one that the runtime passes, if there is one.

    Parameters that a `functools.partial` binds by keyword are not the model's.
    """

    def __init__(self, function: Callable[..., Any], name: str, is_context: Callable[[Any], bool]) -> None:
        """Read a function's signature. Raises `TypeError` if a parameter has no name or no type."""
        bound = function.keywords if isinstance(function, functools.partial) else {}
        parameters = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in bound]
        self.name = name
        self.context = next((p.name for p in parameters if is_context(p.annotation)), None)
        shown = [p for p in parameters if p.name != self.context]
        for parameter in shown:
            if parameter.kind not in _NAMED_KINDS or parameter.annotation is parameter.empty:
                raise TypeError(f"The tool {name} cannot have the parameter {parameter}: it needs a name and a type")
        # The fields have generated names, so that parameters may have names such as `schema` or `json`.
        self._names = {f"field_{number}": p.name for number, p in enumerate(shown)}
        fields: dict[str, Any] = {
            field: (p.annotation, Field(... if p.default is p.empty else p.default, alias=p.name))
            for field, p in zip(self._names, shown, strict=True)
        }
        self._model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)

    @property
    def schema(self) -> JsonObject:
        """The JSON schema of the arguments."""
        return _without_titles(self._model.model_json_schema(by_alias=True))

    def validate(self, arguments: JsonObject) -> dict[str, Any]:
        """Return the function's arguments, converted to its types. Raises `InvalidArguments`."""
        try:
            valid = self._model.model_validate(arguments)
        except ValidationError as error:
            raise _invalid(self.name, error) from error
        return {name: getattr(valid, field) for field, name in self._names.items()}


def _without_titles(schema: Mapping[str, Any]) -> JsonObject:
    """Remove titles, which only repeat names and cost tokens in every prompt."""
    properties = {
        name: {key: value for key, value in described.items() if key != "title"}
        for name, described in schema.get("properties", {}).items()
    }
    kept = {key: value for key, value in schema.items() if key not in {"title", "properties"}}
    return {**kept, "properties": properties}


def _invalid(name: str, error: ValidationError) -> InvalidArguments:
    """Describe a validation error so that the model can correct its call, and a person their change."""
    errors = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors(include_url=False)]
    limit = MAX_ARGUMENT_ERROR_CHARACTERS
    wrong = [shortened(f"{place or 'arguments'}: {why}", limit) for place, why in errors[:MAX_ARGUMENT_ERRORS]]
    more = f"; and {len(errors) - len(wrong)} more" if len(errors) > len(wrong) else ""
    (place, why), others = errors[0], wrong[1:]
    text = f"{name} cannot be called like this: {'; '.join(wrong)}{more}"
    return InvalidArguments(text, shortened(place, limit), "; ".join([shortened(why, limit), *others]) + more)
