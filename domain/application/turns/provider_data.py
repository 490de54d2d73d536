"""An endpoint's data beyond the protocol (reasoning, signatures), limited to what prompts have room for.

The data is sent back with every later prompt that shows its message, so it takes tokens there: reasoning about as many
as any text, a signature as many as the thoughts that it stands for.
"""

import logging

from msgspec.structs import replace

from domain.application.turns.token_counting import count_tokens
from domain.json import Json
from domain.models.chat import ChatAnswer
from domain.ports.tokens import TokenCounter
from domain.thread.codec import to_json
from domain.thread.size_limits import MAX_OPAQUE, bytes_of

_log = logging.getLogger(__name__)

MAX_WINDOW_SHARE = 0.5
"""The share of the context window that the data may take: with more, no prompt would have room for the message."""

MAX_DATA_BYTES = 4 * MAX_OPAQUE
"""Bytes, as JSON, that the data of a message and of its calls may take together."""

MIN_BLOB_CHARS = 100
"""A text without a space that has so many characters is taken for a signature or for encrypted data."""

BLOB_CHARS_PER_TOKEN = 4
"""Characters of such data that count as one token."""


async def limit_provider_data(answer: ChatAnswer, window: int, tokens: TokenCounter) -> tuple[ChatAnswer, int]:
    """Return an answer with the data that there is room for in a window of so many tokens, and the data's tokens.

    Data that is too large is dropped whole: that of the calls if it is too large alone, that of the message if both are
    too large together.
    """
    if not answer.extra and not any(call.extra for call in answer.tool_calls):
        return answer, 0
    of_calls = [call.extra for call in answer.tool_calls if call.extra]
    size, used = await _size_of(of_calls, tokens)
    if size > MAX_DATA_BYTES or used > window * MAX_WINDOW_SHARE:
        _log.warning("Dropped the data of %s with its tool calls: %d bytes, about %d tokens", answer.origin, size, used)
        answer = replace(answer, tool_calls=tuple(replace(call, extra={}) for call in answer.tool_calls))
        size, used = 0, 0
    own_size, own = await _size_of(answer.extra, tokens)
    if size + own_size > MAX_DATA_BYTES or used + own > window * MAX_WINDOW_SHARE:
        names = ", ".join(answer.extra)
        _log.warning("Dropped %s of %s: %d bytes, about %d tokens", names, answer.origin, own_size, own)
        return replace(answer, extra={}), used
    return answer, used + own


async def _size_of(data: Json, tokens: TokenCounter) -> tuple[int, int]:
    """Return the bytes of data as JSON, and an estimate of its tokens."""
    if not data:
        return 0, 0
    whole = to_json(data)
    text = to_json(_without_blobs(data))
    return bytes_of(whole), await count_tokens(tokens, text) + (len(whole) - len(text)) // BLOB_CHARS_PER_TOKEN


def _without_blobs(value: Json) -> Json:
    match value:
        case str():
            return "" if len(value) >= MIN_BLOB_CHARS and value.isascii() and " " not in value else value
        case dict():
            return {key: _without_blobs(item) for key, item in value.items()}
        case list():
            return [_without_blobs(item) for item in value]
        case _:
            return value
