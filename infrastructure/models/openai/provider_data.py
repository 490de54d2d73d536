"""What an endpoint says with a message or a call beyond OpenAI's protocol, kept so that it can be returned.

Gemini wants the `extra_content` of its calls back, DeepSeek its `reasoning_content`, OpenRouter its
`reasoning_details`: without them they refuse the next request, or lose their thread. Nothing here knows these names;
whatever a message holds that the protocol does not is taken as it is, and put together where it is streamed.
"""

import json
import logging
from typing import Any

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import Json, JsonObject, check_json, storable_text
from domain.thread.size_limits import MAX_OPAQUE, bytes_of

_log = logging.getLogger(__name__)

IN_MESSAGE = frozenset(
    {"role", "content", "refusal", "tool_calls", "function_call", "name", "annotations", "audio", "index", "extra"}
)
"""Fields of OpenAI's message, which are read or are of no use in a request."""

IN_CALL = frozenset({"id", "index", "type", "function", "custom", "extra"})

LABELS = frozenset({"type", "id", "format", "index", "role", "object", "name", "model", "status"})
"""Fields of streamed objects that every fragment repeats: they are not put together, the last one counts."""

REPEATED = 16
"""Characters from which on a fragment that equals all before it says the same once more."""

MAX_NAMES = 300
"""Characters of the names of fields in a line of the process's log."""

ENDED = ("signature", "data")
"""Fields that end an object which is streamed without a number: what follows is another one."""


def set_apart(completion: Any) -> None:
    """Move what is not OpenAI's, in the messages of a completion or a chunk, into a field `extra` beside the rest."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for message in (choice.get("message"), choice.get("delta")) if isinstance(choice, dict) else ():
            if not isinstance(message, dict):
                continue
            _set_apart(message, IN_MESSAGE)
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else (calls,):
                if isinstance(call, dict):
                    _set_apart(call, IN_CALL)


def _set_apart(part: dict[str, Any], known: frozenset[str]) -> None:
    names = [name for name in part if name not in known]
    part["extra"] = {name: part.pop(name) for name in names}


class Opaque:
    """The extra fields of one message or call, in the making."""

    def __init__(self) -> None:
        """Start without any."""
        self._fields: JsonObject = {}
        self._size = 0

    def add(self, fields: JsonObject | None) -> None:
        """Add what a fragment brings. What is too large already does not grow any more."""
        given = {name: value for name, value in (fields or {}).items() if value is not None}
        if not given or self._size > MAX_OPAQUE:
            return
        try:
            self._size += bytes_of(json.dumps(given, ensure_ascii=False))
            if not self._fields:
                self._fields = given
            elif self._size <= MAX_OPAQUE:
                self._fields = _merged(self._fields, given)
        except RecursionError:
            self._size = MAX_OPAQUE + 1  # nested far deeper than anything that can be stored

    @property
    def written(self) -> str:
        """What has come by now, such as reasoning, for an estimate of its tokens."""
        return json.dumps(self._fields, ensure_ascii=False) if self._fields else ""

    def whole(self) -> JsonObject:
        """Return the fields, without those that are empty or cannot be stored."""
        if self._size > MAX_OPAQUE:
            names = shortened(", ".join(self._fields), MAX_NAMES)
            _log.warning("Provider-specific data %s of more than %d bytes is dropped.", names, MAX_OPAQUE)
            return {}
        kept = {}
        for name, given in self._fields.items():
            try:
                value = _storable(given)
                check_json({name: value}, "extra")
            except (InvalidInput, RecursionError) as error:
                _log.warning("Provider-specific data cannot be stored and is dropped: %s", error)
                continue
            if value not in ([], {}):
                kept[name] = value
        return kept


def _merged(before: Json, new: Json, name: str = "") -> Json:
    """Put a fragment behind what came before: texts grow, objects merge, of all else the last one counts."""
    match before, new:
        case _, None:
            return before
        case str(), str() if name not in LABELS:
            return before if before == new and len(new) >= REPEATED else before + new
        case dict(), dict():
            return {**before, **{key: _merged(before.get(key), value, key) for key, value in new.items()}}
        case list(), list():
            return _continued(before, new)
        case _:
            return new


def _continued(before: list[Json], new: list[Json]) -> list[Json]:
    """Put each new entry of a list behind the one that it continues, of those `before`; or else at the end.

    It goes on with the last one of its type and number, or without a number, with the very last one if that is of its
    type.
    """
    entries = list(before)
    last = len(before) - 1
    numbered = {name: place for place, entry in enumerate(before) if (name := _number(entry)) is not None}
    for entry in new:
        name = _number(entry)
        place = (
            numbered.get(name) if name is not None else last if last >= 0 and _goes_on(entries[last], entry) else None
        )
        if place is None:
            entries.append(entry)
        else:
            entries[place] = _merged(entries[place], entry)
    return entries


def _number(entry: Json) -> str | None:
    """Name an entry of a list by its type and its number; None where it has no number."""
    if not isinstance(entry, dict) or entry.get("index") is None:
        return None
    return json.dumps([entry.get("type"), entry["index"]])


def _goes_on(before: Json, entry: Json) -> bool:
    """Say whether an entry without a number goes on with the one before it."""
    if not (isinstance(before, dict) and isinstance(entry, dict)) or before.get("type") != entry.get("type"):
        return False
    return "type" in entry and not any(before.get(field) for field in ENDED)


def _storable(value: Json) -> Json:
    """Write texts so that they can be stored, halves of a character that came apart together again."""
    match value:
        case str() if not value.isascii():
            return storable_text(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        case str():
            return storable_text(value)
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
        case _:
            return value
