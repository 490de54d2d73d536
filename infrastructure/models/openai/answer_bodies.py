"""The body of an answer: one JSON object, server-sent events, or lines of JSON, whatever its content type says."""

import asyncio
import json
from collections.abc import AsyncIterator

from domain.models.chat import AnswerCut, AnswerMalformed, ModelError, OnDelta
from infrastructure.models.openai.assembly import Assembly
from infrastructure.models.openai.sse import EventStreamParser
from infrastructure.models.openai.wire import read_completion, usage_within

LINGER_S = 1.0
"""How long to wait, once an answer is complete or broken, for its usage, and for the end that frees the connection."""

_FIELDS = (b":", b"data", b"event", b"id", b"retry")
"""What a line of server-sent events begins with."""

_BLANK = b"\xef\xbb\xbf \t\r\n"


async def read_answer(chunks: AsyncIterator[bytes], assembly: Assembly, show: OnDelta, *, streamed: bool) -> None:
    """Read an answer, which may be `streamed` or not, other than it was asked for.

    Raises:
        AnswerCut: it ends before it is complete, or the endpoint gives up.
        AnswerMalformed: it is no chat completion.
    """
    start = b""
    async for chunk in chunks:
        start += chunk
        if start.strip(_BLANK):
            break
    match start.lstrip(_BLANK)[:1]:
        case b"{" | b"[":
            await _read_json((await _whole(start, chunks, assembly)).lstrip(_BLANK), assembly, show)
        case b"<":
            assembly.accepted = False  # a proxy's or a portal's: no model was asked
            raise AnswerMalformed(
                "The model's answer is not a chat completion but a web page. Check the endpoint's URL."
            )
        case b"" if not streamed:
            raise AnswerMalformed("The model's endpoint answered with nothing.")
        case _ if not start.strip() or _is_event_stream(start.lstrip(_BLANK)):
            await _read_events(start, chunks, assembly, show)
        case _:
            text = (await _whole(start, chunks, assembly)).decode("utf-8", "replace")
            malformed = AnswerMalformed(f"The model's answer is not a chat completion: {assembly.quoted(text)}")
            malformed.usage, malformed.written = usage_within(text), text
            raise malformed


async def _whole(start: bytes, chunks: AsyncIterator[bytes], assembly: Assembly) -> bytes:
    """Read a body to its end. What has come of it counts if it breaks off."""
    assembly.unread += start
    async for chunk in chunks:
        assembly.unread += chunk
    body = bytes(assembly.unread)
    assembly.unread.clear()
    return body


def _is_event_stream(start: bytes) -> bool:
    """Say whether a body may be server-sent events, by as much of it as has come."""
    return any(start.startswith(field) or field.startswith(start) for field in _FIELDS)


async def _read_json(body: bytes, assembly: Assembly, show: OnDelta) -> None:
    """Read one JSON object, or lines that are one each."""
    try:
        completion = read_completion(body)
    except AnswerMalformed:
        lines = body.splitlines()
        if len(lines) == 1 or not _is_json(lines[0]):
            raise
        for line in lines:
            if line.strip():
                show(assembly.add(read_completion(line)))
        _end(assembly, show)
        return
    show(assembly.add(completion))
    assembly.finish()
    show(assembly.end())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


async def _read_events(start: bytes, chunks: AsyncIterator[bytes], assembly: Assembly, show: OnDelta) -> None:
    """Read events until the stream ends. After a broken one, only the usage is looked for, for a moment."""
    parser = EventStreamParser()
    failure: ModelError | None = None
    now = asyncio.get_running_loop().time
    gives_up_at = 0.0

    def take(events: list[str]) -> None:
        nonlocal failure, gives_up_at
        for data in events:
            if assembly.done:
                return
            if data.strip() == "[DONE]":
                assembly.close()
            elif failure is not None:
                assembly.look_for_usage(data)
            elif data.strip() not in {"", "null"}:
                try:
                    text = assembly.add(read_completion(data))
                except ModelError as error:
                    failure, gives_up_at = error, now() + LINGER_S
                    assembly.broken = True
                else:
                    show(text)

    take(parser.feed(start))
    while not (failure is not None and (assembly.done or now() > gives_up_at)):
        chunk = await anext(chunks, None)
        if chunk is None:
            take(parser.end())
            break
        take(parser.feed(chunk))
    if failure is not None:
        raise failure
    _end(assembly, show)


def _end(assembly: Assembly, show: OnDelta) -> None:
    show(assembly.end())
    if not assembly.finished:
        raise AnswerCut("The model's answer ended before it was complete.")
