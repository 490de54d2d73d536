"""Types of answers: what a model or a person is asked for, as a JSON schema and a check.

An output is `str` (text, unchecked), or a type that pydantic can validate (a model, a dataclass, a `Literal`, an enum,
a list, a number), or a type with msgspec structs: a struct, or a list, dict, union or dataclass of structs. Models are
asked for a JSON object in any case, because their structured modes require one: another value is the field `answer` of
an object.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from domain.agents.error_text import shortened
from domain.agents.schema_check import DEFINITIONS
from domain.errors import InvalidInput
from domain.json import Json, JsonObject
from domain.json_scan import check_items
from domain.models.chat import AnswerInvalid, OutputFormat
from domain.thread.codec import to_json

T = TypeVar("T")

WRAPPER = "answer"
"""The field of the object that holds a value which is no object itself."""

MAX_QUOTED_CHARACTERS = 300
"""Characters of the model's answer in an error."""

MAX_ERRORS = 10
"""Errors of one answer that are named."""

_NO_JSON = object()

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Output(Generic[T]):
    """A type of answers. `schema` is its JSON schema, {} for text. `check` converts JSON; raises `ValueError`."""

    name: str
    schema: JsonObject
    check: Callable[[Json], T]

    @property
    def is_wrapped(self) -> bool:
        """Whether models answer with an object that has the value in its field `answer`."""
        return bool(self.schema) and root_of(self.schema).get("type") != "object"

    @property
    def format(self) -> OutputFormat | None:
        """What models are asked for; None for text."""
        if not self.schema:
            return None
        if not self.is_wrapped:
            return OutputFormat(self.name, self.schema)
        inner = {key: value for key, value in self.schema.items() if key not in DEFINITIONS}
        defs = {key: self.schema[key] for key in DEFINITIONS if key in self.schema}
        wrapped = {"type": "object", "properties": {WRAPPER: inner}, "required": [WRAPPER]}
        return OutputFormat(self.name, {**wrapped, "additionalProperties": False, **defs})

    def parse(self, text: str) -> T:
        """Convert a model's answer. Raises `AnswerInvalid`, which quotes it."""
        if not self.schema:
            return self.check(text)
        try:
            return self.check(self._value(text))
        except ValueError as error:
            raise self._invalid(text, error, "The model wrote") from error

    def check_message(self, text: str) -> Json:
        """Return the JSON that a message of the agent is. Raises `AnswerInvalid`, which quotes the message."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._invalid(text, ValueError("it is not JSON"), "The agent said") from error
        try:
            self.check(value)
        except ValueError as error:
            raise self._invalid(text, error, "The agent said") from error
        return value

    def canonical(self, text: str) -> str:
        """Return the JSON of an answer that fits, without what the model wrote around it. Raises `AnswerInvalid`."""
        self.parse(text)
        return to_json(self._value(text)) if self.schema else text

    def _invalid(self, text: str, error: ValueError, who: str) -> AnswerInvalid:
        quoted = shortened(text, MAX_QUOTED_CHARACTERS)
        return AnswerInvalid(f"The answer does not fit {self.name}: {error}. {who}: {quoted}")

    def _value(self, text: str) -> Json:
        """Find the value in a model's text, which may have other text around the JSON."""
        value = _find_json(text)
        if value is _NO_JSON:
            if self.is_wrapped:  # a model without a structured mode may answer with the bare word
                return text.strip().strip("`\"'.")
            raise ValueError("it is not JSON")
        if self.is_wrapped and isinstance(value, dict) and set(value) == {WRAPPER}:
            return value[WRAPPER]
        return value


def root_of(schema: JsonObject) -> JsonObject:
    """Return a schema, or the definition that it only refers to."""
    for _ in range(len(schema.get("$defs", ())) + len(schema.get("definitions", ())) + 1):
        _, _, reference = str(schema.get("$ref", "")).partition("#/")
        keyword, _, name = reference.partition("/")
        if keyword not in DEFINITIONS or not isinstance(found := schema.get(keyword, {}).get(name), dict):
            break
        schema = {**found, **{key: schema[key] for key in DEFINITIONS if key in schema}}
    return schema


TEXT: Output[str] = Output("text", {}, lambda value: value if isinstance(value, str) else _refuse(value))


def output_of(kind: Any) -> Output[Any]:
    """Return the output of a type. Raises `TypeError` if no JSON schema can be made of it."""
    if kind is str:
        return TEXT
    if kind is None or isinstance(kind, str) or inspect.isroutine(kind):
        raise _no_output(kind, "it is not a type")
    try:
        hash(kind)
    except TypeError as error:
        raise _no_output(kind, error) from error
    return _output_of(kind)


@lru_cache(maxsize=256)
def _output_of(kind: Any) -> Output[Any]:
    name = getattr(kind, "__name__", None) or "answer"
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(name))[:64]
    schema, check = _struct_type(kind) if _is_struct(kind) else _pydantic_type(kind)
    if not schema:
        raise _no_output(kind, "it describes nothing")
    return Output(name, schema, check)


def _is_struct(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, msgspec.Struct)


def _pydantic_type(kind: Any) -> tuple[JsonObject, Callable[[Json], Any]]:
    try:
        adapter = TypeAdapter(kind)
        return adapter.json_schema(), _pydantic_check(adapter)
    except PydanticSchemaGenerationError as error:  # pydantic does not know structs, however deep they are
        return _struct_type(kind, error)
    except Exception as error:  # an undefined name, a callable, a hook of the author's
        raise _no_output(kind, error) from error


def _struct_type(kind: Any, unknown: Exception | None = None) -> tuple[JsonObject, Callable[[Json], Any]]:
    """Describe a type that has structs. `unknown` is what pydantic says about it."""
    try:
        msgspec.json.Decoder(kind)  # refuses what cannot be told apart, such as a union of structs without tags
        (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    except Exception as error:  # msgspec raises TypeError, NameError and others
        why = unknown if unknown is not None and "custom type" in str(error) else error
        raise _no_output(kind, why) from error
    if set(schema) == {"$ref"}:
        own = definitions.pop(own_name := schema["$ref"].rpartition("/")[2])
        if f'"{schema["$ref"]}"' in msgspec.json.encode([own, definitions]).decode():  # a recursive type
            definitions[own_name] = own
        schema = own
    return {**schema, **({"$defs": definitions} if definitions else {})}, _struct_check(kind)


def _no_output(kind: Any, why: Exception | str) -> TypeError:
    first = re.split(r"\n|\. |\.$", str(why))[0]
    return TypeError(
        f"output={shortened(repr(kind), MAX_QUOTED_CHARACTERS)} is no type that can be described to a model: "
        f"{shortened(first, MAX_QUOTED_CHARACTERS)}. Use str, a Literal, an enum, a number, a pydantic model, a "
        "dataclass, a TypedDict, a msgspec Struct, or a list, dict or union of these. Structs of a union need "
        "tags, as in class Refund(Struct, tag=True), and cannot be mixed with pydantic models."
    )


def _struct_check(kind: Any) -> Callable[[Json], Any]:
    def check(value: Json) -> Any:
        try:
            return msgspec.convert(value, kind, str_keys=True)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    return check


def _pydantic_check(adapter: TypeAdapter[Any]) -> Callable[[Json], Any]:
    def check(value: Json) -> Any:
        try:
            return adapter.validate_json(msgspec.json.encode(value))
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False)[:MAX_ERRORS]
            named = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"] for e in errors)
            raise ValueError("; ".join(named)) from error

    return check


def _refuse(value: Json) -> str:
    raise ValueError(f"it must be text, not {type(value).__name__}")


def _find_json(text: str) -> Json:
    """Return the JSON of a text: all of it, its first fenced block, or from its first to its last brace."""
    fenced = _FENCED.search(text)
    spans = [text, fenced.group(1) if fenced else "", text[text.find("{") : text.rfind("}") + 1]]
    for span in spans:
        try:
            check_items(span, "answer")
            return msgspec.json.decode(span)
        except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidInput):
            continue
    return _NO_JSON
