"""Limits of the sizes of what is written. Larger values that are in the log already can still be read.

The limits exist because recorded values are read many times: into folded states, pages and prompts.
"""

import inspect

from domain.errors import InvalidInput
from domain.json import Json
from domain.thread.codec import to_json

AWAIT = "await the call, as in `await turn.ask(...)`"
"""What to do about a value that was not awaited."""

MAX_TEXT_BYTES = 1_000_000
"""Bytes of a text in UTF-8 that one event may hold: a message, a result, a summary."""

MAX_NODE_MESSAGE_CHARACTERS = 200_000
"""Characters of a message that a node writes itself: the same limit as a user's. Counting its tokens takes 50 ms."""

MAX_VALUES_CHARACTERS = 256 * 1024
"""Characters of a thread's values as JSON: they are in the folded state, in snapshots and in answers."""

MAX_ARGUMENTS_CHARACTERS = 256 * 1024
"""Characters of a tool call's arguments as JSON."""

MAX_OPAQUE = 64 * 1024
"""Bytes, as JSON, of an `extra`: what an endpoint sends in addition to a message or a call, such as reasoning."""

MAX_FACTS = 2_000_000
"""Bytes of all events that one node may record at its end."""

MAX_FAN_OUT_CHARACTERS = 1_000_000
"""Characters of all items of a node's fan-outs, as JSON."""

MAX_RESULTS_CHARACTERS = 4 * 1024 * 1024
"""Characters of all results of a node, as JSON. Each item has an equal share, at most `MAX_RESULT_CHARACTERS`."""

MAX_RESULT_CHARACTERS = 16 * 1024
"""Characters of an item's result as JSON."""

MAX_OUTPUT_SCHEMA_CHARACTERS = 16 * 1024
"""Characters, as JSON, of the schema that a client wants an answer to fit: it is in each prompt of the turn."""

MAX_SUBJECT_CHARACTERS = 200
"""Characters of the name of the customer that a thread is about."""

MAX_QUEUED_BYTES = 1_000_000
"""Bytes of the messages that wait for a thread's running turn. All of them are in its folded state."""


def bytes_of(text: str) -> int:
    """Count the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def check_text_size(text: str | None, field: str) -> int:
    """Return the bytes of a text. Raises `InvalidInput`, naming the field, if it is longer than an event may hold."""
    size = bytes_of(text) if text else 0
    if size > MAX_TEXT_BYTES:
        raise InvalidInput(field, f"may take {MAX_TEXT_BYTES:,} bytes, not {size:,}")
    return size


def is_not_awaited(value: object) -> bool:
    """Return whether a value is a call that was not awaited, and close it: it never runs."""
    if inspect.iscoroutine(value):
        value.close()
    return inspect.isawaitable(value)


def check_message_text(content: object, field: str) -> None:
    """Raise `InvalidInput` for what is no text, or longer than a node may say itself."""
    if not isinstance(content, str):
        advice = AWAIT if is_not_awaited(content) else "of a value use str() or json.dumps()"
        raise InvalidInput(field, f"must be text, not a {type(content).__name__}; {advice}")
    if len(content) > MAX_NODE_MESSAGE_CHARACTERS:
        raise InvalidInput(field, f"may have {MAX_NODE_MESSAGE_CHARACTERS:,} characters, not {len(content):,}")


def check_is_json(value: Json, field: str) -> None:
    """Raise `InvalidInput`, naming the field, for an object that is not JSON, such as a model."""
    try:
        to_json(value)
    except TypeError as error:
        advice = "of a pydantic model use model_dump(mode='json'), of a msgspec struct msgspec.to_builtins"
        if is_not_awaited(value) or "type coroutine " in str(error):
            advice = AWAIT
        raise InvalidInput(field, f"must be JSON; {advice} ({error})") from error


def check_json_size(value: Json, field: str, most: int) -> int:
    """Return the characters of JSON. Raises `InvalidInput`, naming the field, if there are more than `most`."""
    size = len(to_json(value))
    if size > most:
        raise InvalidInput(field, f"may take {most:,} characters as JSON, not {size:,}")
    return size


def result_limit(items: int) -> int:
    """Return the characters that the result of one of so many items may take as JSON."""
    return min(MAX_RESULT_CHARACTERS, MAX_RESULTS_CHARACTERS // max(items, 1))


def item_values_limit(items: int) -> int:
    """Return the characters that the values of one of so many items, which runs a graph, may take as JSON."""
    return min(MAX_VALUES_CHARACTERS, MAX_RESULTS_CHARACTERS // max(items, 1))


def cut_to_fit(text: str, mark: str = "") -> str:
    """Leave out the end of a text that is longer than an event may hold, and put a mark in its place."""
    if bytes_of(text) <= MAX_TEXT_BYTES:
        return text
    kept = text[:MAX_TEXT_BYTES].encode(errors="surrogatepass")[: MAX_TEXT_BYTES - len(mark.encode())]
    return kept.decode(errors="ignore") + mark
