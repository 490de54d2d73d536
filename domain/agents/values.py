"""Typed values: a graph may have a model of its threads' values, a pydantic model or a msgspec struct.

The log stores values as JSON. The model checks and fills them, and nodes and tools read them as its instances.
"""

import re
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import JsonObject, copied
from domain.thread.codec import to_json

ValuesModel: TypeAlias = type[BaseModel] | type[Struct]

MAX_SHOWN_CHARACTERS = 300
"""Characters of a field's name, or of what a model says about it, in an error."""

_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>.*?)`$")


def is_model(model: object) -> bool:
    """Return whether a class can be a model of values."""
    return isinstance(model, type) and issubclass(model, BaseModel | Struct)


def typed_values(model: ValuesModel | None, values: JsonObject) -> Any:
    """Return the values as an instance of the model; without a model, a copy. Raises `InvalidInput`.

    The error's field is a path such as `values.order_id`.
    """
    if model is None:
        return copied(values)
    _check_names(model, values)
    if issubclass(model, BaseModel):
        try:
            return model.model_validate_json(to_json(values))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise _invalid(".".join(map(str, first["loc"])), first["msg"]) from error
    try:
        return msgspec.convert(values, model)
    except msgspec.ValidationError as error:
        raise _invalid(*_read(str(error))) from error


def filled_values(model: ValuesModel | None, values: JsonObject) -> JsonObject:
    """Return the values as JSON, with the model's defaults for fields that are left out. Raises `InvalidInput`."""
    typed = typed_values(model, values)
    if isinstance(typed, BaseModel):
        return typed.model_dump(mode="json", by_alias=True)
    return dict(msgspec.to_builtins(typed))


def _check_names(model: ValuesModel, values: JsonObject) -> None:
    """Refuse fields that the model does not have: a misspelt one would be ignored. A model may allow others."""
    known = _names(model)
    unknown = next((name for name in values if name not in known), None) if known is not None else None
    if known is not None and unknown is not None:
        raise _invalid(unknown, f"is not a field of {model.__name__}; its fields are {', '.join(known) or 'none'}")


def _names(model: ValuesModel) -> list[str] | None:
    """Return the names of a model's fields as JSON has them; None if any name is accepted."""
    if issubclass(model, Struct):
        return list(model.__struct_encode_fields__)
    if model.model_config.get("extra") == "allow":
        return None
    names = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        if isinstance(alias, AliasChoices | AliasPath):
            return None
        by_name = model.model_config.get("validate_by_name") or model.model_config.get("populate_by_name")
        names += [alias, name] if alias and by_name else [alias or name]
    return names


def _read(message: str) -> tuple[str, str]:
    """Return the path and the reason in a message of msgspec."""
    at = _AT.search(message)
    why, path = _AT.sub("", message), at["path"].replace("[", ".").replace("]", "") if at else ""
    if missing := _MISSING.match(why):
        path = f"{path}.{missing['name']}" if path else missing["name"]
        why = "Field required" if "missing" in why else "is not a field"
    return path, why


def _invalid(path: str, why: str) -> InvalidInput:
    field = shortened(f"values.{path}" if path else "values", MAX_SHOWN_CHARACTERS)
    return InvalidInput(field, shortened(why, MAX_SHOWN_CHARACTERS))
