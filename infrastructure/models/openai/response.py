"""The body of a response: one JSON object, server-sent events, or lines of JSON, whatever its content type says."""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncIterator, Iterator

from domain.errors import InvalidInput
from domain.json_scan import check_items
from domain.models.chat import AnswerCut, AnswerMalformed, ModelError, OnDelta
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.completion import read_completion, usage_within
from infrastructure.models.openai.failures import quoted

LINGER_S = 1.0
"""How long to wait, once an answer is complete or broken, for its usage, and for the end that frees the connection."""

MAX_LINES = 20_000
"""Lines of JSON that an answer may have."""

PAUSE_EVERY = 64
"""Events or lines after which other tasks run: one piece of a body may hold thousands."""

_SSE_FIELDS = (b":", b"data", b"event", b"id", b"retry")
"""What a line of server-sent events begins with."""

_BOM = b"\xef\xbb\xbf"
_BLANK = _BOM + b" \t\r\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
_DONE = re.compile(r"data: ?\[DONE\]")


async def read_answer(chunks: AsyncIterator[bytes], answer: AnswerBuilder, show: OnDelta, *, streamed: bool) -> None:
    """Read a body into `answer`, and `show` its text as it comes. `streamed`: a stream was asked for.

    Endpoints answer either way, whichever was asked for.

    Raises:
        AnswerCut: it ends before it is complete, or the endpoint gives up.
        AnswerMalformed: it is no chat completion.
    """
    arrived = bytearray()
    async for chunk in chunks:
        arrived += chunk
        if chunk.strip(_BLANK):
            break
    start = bytes(arrived)
    begin = start.lstrip(_BLANK)
    match begin[:1]:
        case b"{" | b"[":
            await _read_json((await _whole(start, chunks, answer)).lstrip(_BLANK), answer, show)
        case b"<":
            answer.accepted = False  # a proxy's or a portal's: no model was asked
            why = "is not a chat completion but a web page. Check the endpoint's URL."
            raise AnswerMalformed(f"The model's answer {why}")
        case b"" if not streamed:
            raise AnswerMalformed("The model's endpoint answered with nothing.")
        case _ if not start.strip() or any(begin.startswith(field) or field.startswith(begin) for field in _SSE_FIELDS):
            await _read_events(start, chunks, answer, show)
        case _:
            text = (await _whole(start, chunks, answer)).decode("utf-8", "replace")
            malformed = AnswerMalformed(f"The model's answer is not a chat completion: {quoted(text, answer.secret)}")
            malformed.usage, malformed.written = usage_within(text), text
            raise malformed


async def _whole(start: bytes, chunks: AsyncIterator[bytes], answer: AnswerBuilder) -> bytes:
    """Read a body to its end. If it breaks off, what has come is in `answer.unread`."""
    answer.unread += start
    async for chunk in chunks:
        answer.unread += chunk
    body = bytes(answer.unread)
    answer.unread.clear()
    return body


async def _read_json(body: bytes, answer: AnswerBuilder, show: OnDelta) -> None:
    """Read one JSON object, or lines that are one each."""
    try:
        completion = read_completion(body)
    except AnswerMalformed:
        if body.count(b"\n") + body.count(b"\r") > MAX_LINES:
            raise
        lines = body.splitlines()
        if len(lines) == 1 or not _is_json(lines[0]):
            raise
        for number, line in enumerate(lines, 1):
            if line.strip():
                show(answer.add(read_completion(line)))
            if number % PAUSE_EVERY == 0:
                await asyncio.sleep(0)
        _end(answer, show)
        return
    show(answer.add(completion))
    answer.finish()
    show(answer.end())


def _is_json(line: bytes) -> bool:
    try:
        check_items(line, "line")
        json.loads(line)
    except (InvalidInput, ValueError, RecursionError):
        return False
    return True


async def _read_events(start: bytes, chunks: AsyncIterator[bytes], answer: AnswerBuilder, show: OnDelta) -> None:
    """Read events until the stream ends. After a malformed one, read on for a moment, only for the usage."""
    parser = EventStreamParser()
    failure: ModelError | None = None
    now = asyncio.get_running_loop().time
    gives_up_at = 0.0

    async def take(events: list[str]) -> None:
        nonlocal failure, gives_up_at
        for number, data in enumerate(events, 1):
            if number % PAUSE_EVERY == 0:
                await asyncio.sleep(0)
            if answer.done:
                return
            if data.strip() == "[DONE]":
                answer.close()
            elif failure is not None:
                answer.usage = usage_within(data) or answer.usage
            elif data.strip() not in {"", "null"}:
                try:
                    show(answer.add(read_completion(data)))
                except ModelError as error:
                    failure, gives_up_at = error, now() + LINGER_S
                    answer.broken = True

    await take(parser.feed(start))
    while not (failure is not None and (answer.done or now() > gives_up_at)):
        chunk = await anext(chunks, None)
        if chunk is None:
            await take(parser.end())
            break
        await take(parser.feed(chunk))
    if failure is not None:
        raise failure
    _end(answer, show)


def _end(answer: AnswerBuilder, show: OnDelta) -> None:
    show(answer.end())
    if not answer.finished:
        raise AnswerCut("The model's answer ended before it was complete.")


class EventStreamParser:
    """Parses server-sent events: takes chunks as they arrive, returns the data of each event that they complete.

    Lines end with LF, CR LF or CR. Comments and all fields but `data` are ignored. A chunk may end inside a character.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self._partial: list[str] = []
        self._data: list[str] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of each event that ends within `chunk`."""
        text = self._decode(chunk)
        if not text:
            return []
        if self._after_cr:
            text = text.removeprefix("\n")  # the other half of a CR LF
        self._after_cr = text.endswith("\r")
        *ended, rest = _LINE_END.split(text)
        if ended:
            ended[0] = "".join([*self._partial, ended[0]])
            self._partial.clear()
        self._partial.append(rest)
        return list(self._events(ended))

    def end(self) -> list[str]:
        """Return the data of an event whose closing blank line never came. A line that was cut off is dropped."""
        last = "".join(self._partial)
        return list(self._events([last, ""] if _DONE.fullmatch(last) else [""]))

    def _events(self, lines: list[str]) -> Iterator[str]:
        for line in lines:
            field, _, value = line.partition(":")
            if field == "data":
                self._data.append(value.removeprefix(" "))
            elif not line and self._data:
                yield "\n".join(self._data)
                self._data.clear()
