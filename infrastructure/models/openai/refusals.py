"""Which field of a request an endpoint does not take, read from the words of its refusal.

A field counts only if a statement both names it and says that it is not taken. A value that is out of range, a part
of a field (`tools[0].function.name`), and a list of the fields that are taken instead are something else.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

STATUSES = frozenset({400, 404, 405, 415, 422, 500, 501})

FIELDS = {
    "stream_options": r"stream[_ -]?options(?:\.include_usage)?|include_usage",
    "max_tokens": r"max_tokens",
    "max_completion_tokens": r"max_completion_tokens",
    "temperature": r"temperature",
    "stream": r"stream(?:ing|ed)?",
    "tools": r"tools|tool[_ -]?(?:use|calls?|calling|choice|param(?:eter)?)|function[_ -]?call(?:s|ing)?|functions",
}
"""The fields that can be left out, those that matter least first, and how endpoints name them."""

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
    | must\ be\ (?:false|unset|omitted|null|verified) | \bonly\b.*\b(?:support|allow|accept)
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
"""What refusals are about that name calls or tools because these do not fit together: tools as such are taken."""

_TAKEN_INSTEAD = re.compile(
    r"\bexpected (?:one of|fields?|param)|\bdid you mean\b|\buse ['\"`]|\binstead\b"
    r"|(?<!not )\b(?:supported|allowed|valid|known|accepted|permitted|available)"
    r" (?:\w+ )?(?:fields|parameters|params|keys|options|arguments|properties)\b",
    re.IGNORECASE,
)

_SENTENCE = re.compile(r"[.;!?]\s+|\n+(?!\s)")
_PREFIX = re.compile(r"\b(?:body|request)\.|\$\.", re.IGNORECASE)
_ECHOES = frozenset({"input", "body", "request", "ctx"})
"""Where endpoints repeat what they were sent."""

_MAX_STATEMENTS = 200


def rejected_field(body: str, sent: Sequence[str]) -> str | None:
    """Return the field that a refusal is about, of those that were `sent`; None if it is about something else."""
    statements = list(_statements(body))[:_MAX_STATEMENTS]
    for field in (field for field in FIELDS if field in sent):
        if any(_is_rejected(field, statement) for statement in statements):
            return field
    return None


def _is_rejected(field: str, statement: str) -> bool:
    told = _TAKEN_INSTEAD.split(_PREFIX.sub("", statement), maxsplit=1)[0]
    if not (_NAMES[field].search(told) and NOT_TAKEN.search(told)):
        return False
    otherwise = _ABOUT_CALLS if field == "tools" else _ABOUT_A_VALUE if field.endswith("_tokens") else None
    return not (otherwise and otherwise.search(told))


def _statements(body: str) -> Iterator[str]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = body
    yield from _within(found, 8)


def _within(found: Any, depth: int) -> Iterator[str]:
    """Yield what is said in a text or anywhere within JSON."""
    if depth == 0:
        return
    match found:
        case str() if depth > 1 and found.lstrip()[:1] in {"{", "["}:  # an error within an error, written as text
            yield from _reread(found, depth)
        case str():
            yield from _SENTENCE.split(found)
        case list():
            for item in found:
                yield from _within(item, depth - 1)
        case dict():
            named = _named_by(found)
            if named:
                yield f"{named}: {' '.join(_texts(found))}"
            for key, value in found.items():
                if key in FIELDS:
                    yield f"{key}: {' '.join(_texts(value))}"
                if key not in _ECHOES:
                    yield from _within(value, depth - 1)


def _reread(text: str, depth: int) -> Iterator[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        yield from _SENTENCE.split(text)
    else:
        yield from _within(found, depth - 1)


def _named_by(error: dict[str, Any]) -> str | None:
    """Return the field that an error names apart from its message: as `param`, `field`, `loc` or such."""
    where = error.get("loc")
    if isinstance(where, list):
        path = [part for part in where if part not in {"body", "__root__"}]
        return path[0] if path and path[0] in FIELDS and (len(path) == 1 or path[0] == "stream_options") else None
    names = [value for value in (*error.values(), *_nested(error.get("params"))) if isinstance(value, str)]
    return next((name for name in names if name in FIELDS), None)


def _nested(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else ()


def _texts(value: Any) -> list[str]:
    """Return the texts that stand side by side in a part of an error."""
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _texts(item)]
        case dict():
            return [text for key, item in value.items() if key not in _ECHOES for text in _texts(item)]
        case _:
            return []
