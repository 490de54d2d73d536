"""Provider-specific data: fields beyond OpenAI's protocol, kept so that they can be returned to their endpoint.

Gemini wants the `extra_content` of its calls back, DeepSeek its `reasoning_content`, OpenRouter its
`reasoning_details`: otherwise they refuse the next request, or forget what they reasoned. Nothing here knows these
names. Every field of a message that the protocol does not know is kept, and merged where it is streamed.
"""

import json
import logging
from collections.abc import Collection

from msgspec.structs import replace

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import Json, JsonObject, check_json, storable_text
from domain.models.chat import ChatMessage, ChatRequest
from domain.thread.size_limits import MAX_OPAQUE, bytes_of
from infrastructure.models.openai.surrogates import join_surrogates

DATA = "data:"
"""The prefix of provider-specific fields among the names of omitted fields."""

NAME = "name"

_log = logging.getLogger(__name__)

MESSAGE_FIELDS = frozenset(
    {"role", "content", "refusal", "tool_calls", "function_call", "name", "annotations", "audio", "index", "extra"}
)
"""Fields of OpenAI's messages: read elsewhere, or of no use in a request."""

CALL_FIELDS = frozenset({"id", "index", "type", "function", "custom", "extra"})

REPEATED_FIELDS = frozenset({"type", "id", "format", "index", "role", "object", "name", "model", "status"})
"""Fields that every fragment of a streamed object repeats: they are not concatenated, the last one counts."""

MIN_DUPLICATE_CHARS = 16
"""A fragment of at least this length that equals all text before it is a duplicate."""

MAX_LOGGED_NAMES = 300
"""Characters of field names in a log line."""

LAST_FIELDS = ("signature", "data")
"""Fields that end a streamed object without an index: what follows belongs to another one."""


def extra_of(part: JsonObject, known: Collection[str]) -> JsonObject:
    """Return the fields of a message or a call that are not among the `known` ones of the protocol."""
    return {name: value for name, value in part.items() if name not in known}


class ExtraFields:
    """The extra fields of one message or call, merged from its fragments."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._size = 0
        self._merge = _Merging()

    def add(self, fields: JsonObject) -> None:
        """Add the fields of a fragment. Fields that are too large already do not grow any more."""
        given = {name: value for name, value in fields.items() if value is not None}
        if not given or self._size > MAX_OPAQUE:
            return
        try:
            self._size += bytes_of(json.dumps(given, ensure_ascii=False))
            if not self._fields:
                self._fields = given
            elif self._size <= MAX_OPAQUE:
                self._merge.objects(self._fields, given)
        except RecursionError:
            self._size = MAX_OPAQUE + 1  # nested far deeper than anything that can be stored

    @property
    def written(self) -> str:
        """What came so far, such as reasoning, for an estimate of its tokens."""
        return json.dumps(self._fields, ensure_ascii=False) if self._fields else ""

    def build(self) -> JsonObject:
        """Return the fields, without those that are empty or cannot be stored."""
        if self._size > MAX_OPAQUE:
            names = shortened(", ".join(self._fields), MAX_LOGGED_NAMES)
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


class _Merging:
    """Merges fragments into what came before, which it changes. The cost of a fragment is that of its own size."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[list[Json], dict[str, int]]] = {}
        """For each list, by its identity: the list, to keep it in memory, and where its entries with an index are."""

    def merged(self, before: Json, new: Json, name: str = "") -> Json:
        """Return both together: texts are concatenated, objects merged, of all else the last counts."""
        match before, new:
            case _, None:
                return before
            case str(), str() if name not in REPEATED_FIELDS:
                return before if before == new and len(new) >= MIN_DUPLICATE_CHARS else before + new
            case dict(), dict():
                return self.objects(before, new)
            case list(), list():
                return self._lists(before, new)
            case _:
                return new

    def objects(self, before: JsonObject, new: JsonObject) -> JsonObject:
        """Merge a fragment into an object."""
        for key, value in new.items():
            before[key] = self.merged(before.get(key), value, key)
        return before

    def _lists(self, entries: list[Json], new: list[Json]) -> list[Json]:
        """Merge each new entry of a list with the entry that it continues; append it if there is none.

        It continues the last entry of its type and index; without an index, the very last entry if that has its type.
        """
        if id(entries) not in self._places:
            self._places[id(entries)] = (entries, _places_of(entries, 0))
        places = self._places[id(entries)][1]
        begin = len(entries)
        for entry in new:
            if (key := _key(entry)) is not None:
                place = places.get(key)
            else:
                place = begin - 1 if begin and _continues(entries[begin - 1], entry) else None
            if place is None:
                entries.append(entry)
            else:
                entries[place] = self.merged(entries[place], entry)
        places |= _places_of(entries, begin)
        return entries


def _places_of(entries: list[Json], begin: int) -> dict[str, int]:
    """Return where the entries from `begin` on are that have an index."""
    return {key: place for place, entry in enumerate(entries[begin:], begin) if (key := _key(entry)) is not None}


def _key(entry: Json) -> str | None:
    """Identify an entry of a list by its type and index; None if it has no index."""
    if not isinstance(entry, dict) or entry.get("index") is None:
        return None
    return json.dumps([entry.get("type"), entry["index"]])


def _continues(before: Json, entry: Json) -> bool:
    """Say whether an entry without an index continues the one before it."""
    if not (isinstance(before, dict) and isinstance(entry, dict)) or before.get("type") != entry.get("type"):
        return False
    return "type" in entry and not any(before.get(field) for field in LAST_FIELDS)


def _storable(value: Json) -> Json:
    """Return a value whose texts can be stored: halves of a character are joined again."""
    match value:
        case str():
            return storable_text(join_surrogates(value))
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
        case _:
            return value


def own_data(request: ChatRequest, origin: str) -> frozenset[str]:
    """Return the names of the provider-specific fields that a request returns to the endpoint, each after `DATA`."""
    own = [message for message in request.messages if message.origin == origin]
    extras = [extra for message in own for extra in (message.extra, *(call.extra for call in message.tool_calls))]
    return frozenset(DATA + name for extra in extras for name in extra)


def without_data(message: ChatMessage, omitted: Collection[str]) -> ChatMessage:
    """Return a message without the fields that its endpoint does not take back."""
    names = {name.removeprefix(DATA) for name in omitted if name.startswith(DATA)}
    if not names:
        return message
    calls = tuple(replace(call, extra=extra_of(call.extra, names)) for call in message.tool_calls)
    name = None if NAME in names else message.name
    return replace(message, extra=extra_of(message.extra, names), tool_calls=calls, name=name)
