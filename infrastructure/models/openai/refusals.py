"""Which field of a request an endpoint refuses, read from the text of its error.

Optional fields: one counts only if a statement both names it and says that it is not accepted. A value that is out of
range, a part of a field (`tools[0].function.name`), and a list of the fields that are accepted are something else.

Structured output: a statement that names it is about it, whatever else it says, because requests lose little without
it: the prompt carries the schema as well. Some endpoints accept only `json_object`, some refuse a single schema, and
some refuse it together with tools.

Provider-specific data: some endpoints send fields that they do not accept in a request. Then requests omit them. Others
refuse tool calls without their own reasoning or signature, which calls of another model do not have. Then these calls
are sent as text. And some demand a name in a tool's result (Gemini, GPT-OSS's template), which others refuse (xAI).
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

from domain.models.chat import ChatRequest
from infrastructure.models.openai.provider_data import DATA, NAME, own_data
from infrastructure.models.openai.response_format import SCHEMA, WITH_TOOLS

STATUSES = frozenset({400, 404, 405, 415, 422, 500, 501})

FIELDS = {
    "stream_options": r"stream[_ -]?options(?:\.include_usage)?|include_usage",
    "max_tokens": r"max_tokens",
    "max_completion_tokens": r"max_completion_tokens",
    "json_schema": r"json[_ -]?schema",
    "response_format": r"response[_ -]?format",
    "temperature": r"temperature",
    "stream": r"stream(?:ing|ed)?",
    "tools": r"tools|tool[_ -]?(?:use|calls?|calling|choice|param(?:eter)?)|function[_ -]?call(?:s|ing)?|functions",
}
"""The optional fields, the least important ones first, and how endpoints name them."""

_NAMES = {
    field: re.compile(rf"(?<![\w.\]])(?:{named})(?![\w\[]|\.\w|[_ -]options)", re.IGNORECASE)
    for field, named in FIELDS.items()
}

NOT_TAKEN = re.compile(
    r"""unsupported | (?:not|n't|no|without)(?:\ \w+)?\ support | unrecogni[sz]ed | unknown | \bextra[\ _]
    | unexpected\ (?:keyword|argument|field|param|propert|key) | was\ unexpected | additional\ propert
    | not\ (?:\w+\ )?(?:permitted|allowed|accepted|implemented|available|enabled|recogni[sz]ed|a\ valid)
    | forbidden | disallowed | deprecated | \bremoved\b | disabled | requires?\ -- | no\ endpoints\ found
    | cannot\ be\ (?:used|set|specified) | invalid\ (?:param|argument|field|request\ argument|option|key)
    | must\ be\ (?:false|unset|omitted|null|verified) | \bonly\b.{0,200}\b(?:support|allow|accept)
    """,
    re.IGNORECASE | re.VERBOSE,
)

_ABOUT_A_VALUE = re.compile(
    r"too (?:large|big|high|small|low|long)|maximum|minimum|at (?:most|least)|exceed|range|positive|integer"
    r"|(?:larger|greater|less|more|fewer) than",
    re.IGNORECASE,
)

_ABOUT_CALLS = re.compile(
    r"\bmessages\b|\b(?:user|assistant|tool|last) message|\bmessage (?:role|with)\b|\broles?\b|call[_ -]?ids?\b"
    r"|\bnumber of\b|\bmore than\b|\bduplicate|\b(?:response|result)s? (?:parts?|blocks?)\b",
    re.IGNORECASE,
)
"""Refusals of tool calls that do not fit together: they name tools or calls, but the endpoint accepts tools."""

_ABOUT_OUTPUT = re.compile(
    r"response[_ -]?format|json[_ -]?(?:schema|mode|object)|structured[_ -]?outputs?|response[_ ]?mime[_ ]?type"
    r"|\bgrammar\b|\bxgrammar\b|guided[_ ](?:decoding|json)|\bspecified schema\b|\boutput_(?:format|config)\b",
    re.IGNORECASE,
)

_ABOUT_A_FUNCTION = re.compile(r"\bfunction ['\"`]|\btools?(?:\[|\.\d)", re.IGNORECASE)
"""Refusals of the schema of a tool."""

_ABOUT_A_SCHEMA = re.compile(
    r"invalid (?:json )?schema|\bschema for\b|\bspecified schema\b|\bin context\b|\bgrammar\b|features? not supported"
    r"|\bschema (?:contains|conversion|is (?:invalid|too|not))|\bunsupported (?:keyword|schema)|\$ref|json_schema[/.]"
    r"|additionalProperties|\b(?:min|max)(?:Items|Length|imum)\b|\bpattern\b|\b(?:any|one|all)Of\b|\bnesting\b",
    re.IGNORECASE,
)
"""Refusals of one schema, by an endpoint that takes others."""

_ABOUT_A_TYPE = re.compile(
    r"json[_ -]?(?:schema|object)|structured[_ -]?outputs?|response[_ -]?format['\"`]?[. ]type|\bof type\b|\bvalue\b",
    re.IGNORECASE,
)

_ALTERNATIVES = re.compile(
    r"\bexpected (?:one of|fields?|param)|\bdid you mean\b|\buse ['\"`]|\binstead\b"
    r"|(?<!not )\b(?:supported|allowed|valid|known|accepted|permitted|available)"
    r" (?:\w+ )?(?:fields|parameters|params|keys|options|arguments|properties)\b",
    re.IGNORECASE,
)

FOREIGN_CALLS = "calls of other models"
"""Among the names of omitted fields: tool calls without the endpoint's own data."""

_NAMED = re.compile(r"(?<!\w)name(?!\w)")
_IN_MESSAGES = re.compile(r"message", re.IGNORECASE)
_ONLY_OTHERS = re.compile(r"\bonly\b.{0,200}\bcan have\b", re.IGNORECASE)

_REMOVE = re.compile(r"\bremove\b", re.IGNORECASE)

_MISSING = re.compile(
    r"\bmissing\b|\bmust (?:be|include|have|contain)\b|\brequired?s?\b|\bwithout\b|\bexpected\b", re.IGNORECASE
)
_REASONING = re.compile(r"reasoning|thought|thinking", re.IGNORECASE)

_SENTENCE = re.compile(r"[.;!?]\s+|(?<!\n)\n++(?!\s)")
_PREFIX = re.compile(r"\b(?:body|request)\.|\$\.", re.IGNORECASE)
_ECHOES = frozenset({"input", "body", "request", "ctx"})
"""Fields in which endpoints repeat the request."""

_MAX_STATEMENTS = 200
_MAX_STATEMENT_CHARACTERS = 2_000
_MAX_CHARACTERS = 20_000


def rejected_field(body: str, sent: Sequence[str]) -> str | None:
    """Return the optional field that a refusal is about, of those that were `sent`; None for any other refusal.

    About `response_format` it may also be `WITH_TOOLS`, or `SCHEMA` for the schema alone.
    """
    statements = list(_some(_sentences(_parsed(body), 8)))
    if "response_format" in sent and (refused := next(filter(None, (_of_output(s, sent) for s in statements)), None)):
        return refused
    rejected = (field for field in FIELDS if field in sent and any(_is_rejected(field, each) for each in statements))
    return next(rejected, None)


def _of_output(statement: str, sent: Sequence[str]) -> str | None:
    """Return what a statement refuses of the structured output; None if it is about something else."""
    told = _ALTERNATIVES.split(_PREFIX.sub("", statement), maxsplit=1)[0]
    if not _ABOUT_OUTPUT.search(told) or _ABOUT_A_FUNCTION.search(told):
        return None
    if "tools" in sent and _NAMES["tools"].search(told):
        return WITH_TOOLS
    if "json_schema" in sent and _ABOUT_A_SCHEMA.search(told):
        return SCHEMA
    return "json_schema" if "json_schema" in sent and _ABOUT_A_TYPE.search(told) else "response_format"


def _is_rejected(field: str, statement: str) -> bool:
    told = _ALTERNATIVES.split(_PREFIX.sub("", statement), maxsplit=1)[0]
    if not (_NAMES[field].search(told) and NOT_TAKEN.search(told)):
        return False
    otherwise = _ABOUT_CALLS if field == "tools" else _ABOUT_A_VALUE if field.endswith("_tokens") else None
    return not (otherwise and otherwise.search(told))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _sentences(found: Any, depth: int) -> Iterator[str]:
    """Yield the sentences of a text, or of all texts within JSON."""
    if depth == 0:
        return
    match found:
        case str() if depth > 1 and found.lstrip()[:1] in {"{", "["}:  # an error within an error, as JSON text
            inner = _parsed(found)
            yield from _SENTENCE.split(inner) if isinstance(inner, str) else _sentences(inner, depth - 1)
        case str():
            yield from _SENTENCE.split(found[:_MAX_CHARACTERS])
        case list():
            for item in found:
                yield from _sentences(item, depth - 1)
        case dict():
            if named := _named_by(found):
                yield f"{named}: {' '.join(_texts(found))}"
            for key, value in found.items():
                if key in FIELDS:
                    yield f"{key}: {' '.join(_texts(value))}"
                if key not in _ECHOES:
                    yield from _sentences(value, depth - 1)


def _named_by(error: dict[str, Any]) -> str | None:
    """Return the field that an error names outside its message, such as in `param`, `field` or `loc`."""
    where = error.get("loc")
    if isinstance(where, list):
        path = [part for part in where if isinstance(part, str | int) and part not in {"body", "__root__"}]
        if path[:1] == ["response_format"]:
            return ".".join(map(str, path))
        return path[0] if path and path[0] in FIELDS and (len(path) == 1 or path[0] == "stream_options") else None
    params = error.get("params")
    values = [*error.values(), *(params.values() if isinstance(params, dict) else ())]
    names = [value for value in values if isinstance(value, str)]
    return next((name for name in names if name in FIELDS), None)


def _texts(value: Any) -> list[str]:
    """Return all texts in a part of an error."""
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _texts(item)]
        case dict():
            return [text for key, item in value.items() if key not in _ECHOES for text in _texts(item)]
        case _:
            return []


def refused_data(body: str, request: ChatRequest, origin: str, omitted: Collection[str]) -> str | None:
    """Return the provider-specific field that a refusal is about, after `DATA`; None if it is `omitted` already.

    It may also be the name in a tool's result.
    """
    names = sorted(name.removeprefix(DATA) for name in own_data(request, origin) - set(omitted))
    for statement in _texts_with_places(body) if names else ():
        if NOT_TAKEN.search(statement) or _REMOVE.search(statement):
            for name in names:
                if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", statement):
                    return DATA + name
    if DATA + NAME not in omitted and any(message.role == "tool" for message in request.messages):
        return DATA + NAME if any(map(_refuses_names, _texts_with_places(body))) else None
    return None


def _refuses_names(statement: str) -> bool:
    """Say whether a statement refuses names of messages, and not of tools or models."""
    about_names = _NAMED.search(statement) and _IN_MESSAGES.search(statement)
    return bool(about_names and (NOT_TAKEN.search(statement) or _ONLY_OTHERS.search(statement)))


def refuses_foreign_calls(body: str, request: ChatRequest, origin: str, omitted: Collection[str]) -> bool:
    """Say whether a refusal is about tool calls that lack the endpoint's own reasoning or signature."""
    if FOREIGN_CALLS in omitted or not any(m.tool_calls and m.origin != origin for m in request.messages):
        return False
    return any(_MISSING.search(statement) and _REASONING.search(statement) for statement in _texts_with_places(body))


def _texts_with_places(body: str) -> Iterator[str]:
    """Yield the texts of a refusal. Where an error names a place outside its message, both are one text."""
    yield from _some(_texts_within(_parsed(body)))


def _some(statements: Iterator[str]) -> Iterator[str]:
    """Return what is searched of the statements in a refusal: expressions may try each word with each later one."""
    left = _MAX_CHARACTERS
    for statement in islice(statements, _MAX_STATEMENTS):
        yield statement[: min(_MAX_STATEMENT_CHARACTERS, left)]
        left -= len(statement)
        if left <= 0:
            return


def _texts_within(found: Any) -> Iterator[str]:
    match found:
        case str():
            yield found
        case list():
            for item in found:
                yield from _texts_within(item)
        case dict():
            if isinstance(found.get("loc"), list):
                yield f"{'.'.join(map(str, found['loc']))}: {found.get('msg') or found.get('message')}"
            if isinstance(found.get("param"), str):
                yield f"{found['param']}: {found.get('message')}"
            for value in found.values():
                yield from _texts_within(value)
