"""The body of an answer: one JSON object, server-sent events, or lines of JSON, whatever its content type says."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

from domain.models.chat import AnswerCut, AnswerMalformed, ModelError, OnDelta
from infrastructure.models.openai.answer import Assembly
from infrastructure.models.openai.completion import read_completion, usage_within

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


_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_DONE = re.compile(rb"data: ?\[DONE\]")


class EventStreamParser:
    """Takes bytes as they arrive, gives back the data of the events that they complete.

    Lines end with LF, CR LF or CR. Comments and all fields but `data` are passed over. Bytes are decoded by whole
    lines, so a chunk may end inside a character.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._partial: list[bytes] = []
        self._data: list[str] = []
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of each event that ends within `chunk`."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the other half of a CR LF
            self._after_cr = False
            if not chunk:
                return []
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        events: list[str] = []
        for end in ended:
            self._partial.append(end)
            self._line(b"".join(self._partial), events)
            self._partial.clear()
        if rest:
            self._partial.append(rest)
        return events

    def end(self) -> list[str]:
        """Return the data of an event whose closing blank line never came. A line cut in its middle is dropped."""
        last = b"".join(self._partial)
        events: list[str] = []
        if _DONE.fullmatch(last):
            self._line(last, events)
        self._line(b"", events)
        self._partial.clear()
        return events

    def _line(self, line: bytes, events: list[str]) -> None:
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if not line:
            if self._data:
                events.append("\n".join(self._data))
                self._data.clear()
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
