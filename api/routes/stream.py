"""A thread as server-sent events: its events after a version, and then live."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import Annotated

import msgspec
from litestar import get
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from api.http.authentication import needs
from api.http.params import number_of
from api.http.problems import THREAD_READ_PROBLEMS
from api.http.send_buffer import PIECE_BYTES
from api.routes.dependencies import FromReader, FromService, FromThread
from api.schemas.events import event_view
from api.services.threads import Service
from domain.application.streaming.follow import IDLE_S, follow
from domain.errors import StoreUnavailable
from domain.ids import MAX_VERSION, ThreadId, Version
from domain.ports.wakeups import Delta, Withdrawn
from domain.thread.codec import Recorded

_log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy closes the stream as idle."""

MEDIA_TYPE = "text/event-stream"

LastEventId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="The last received event: the stream continues after it."),
]
After = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_VERSION, description="Begin after this version; 0 is the beginning. Default: now."),
]
UntilIdle = Annotated[bool, QueryParameter(description="End when no turn runs, or the turn waits for a person.")]


class StreamedEvent(Struct, frozen=True, omit_defaults=True):
    """An event of the stream. `data` is JSON; deltas have no `id`."""

    event: str
    data: str
    id: str | None = None


STREAMING = {
    HTTPStatus.OK: ResponseSpec(
        StreamedEvent,
        generate_examples=False,
        media_type=MEDIA_TYPE,
        description="Each event with its version as `id` and its type as `event`; between them `delta` (text that a "
        "model is writing, provisional until its message) and `withdrawn` (discard the deltas).",
    ),
    **THREAD_READ_PROBLEMS,
}


@get("/v1/threads/{thread_id:str}/stream", tags=["turns"], responses=STREAMING, opt=needs("threads:read", long=True))
async def stream_thread(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    last_event_id: LastEventId = None,
    after: After = None,
    *,
    until_idle: UntilIdle = False,
) -> Stream:
    """Follow a thread: its events, and the text that models are writing, whichever process runs the turn."""
    seen, field = _version(last_event_id), "Last-Event-ID"
    if seen is None and after is not None:
        seen, field = Version(after), "after"
    row = await service.history.begin_stream(thread, reader, seen, field)
    begin = row.head.version if seen is None else seen
    text = _streamed(service, thread, begin, until_idle=until_idle)
    return Stream(text, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _streamed(service: Service, thread_id: ThreadId, after: Version, *, until_idle: bool) -> AsyncIterator[bytes]:
    """End the stream if the store is unavailable: the client reconnects with `Last-Event-ID`."""
    try:
        async with aclosing(_followed(service, thread_id, after, until_idle=until_idle)) as following:
            async for part in following:
                yield part
    except StoreUnavailable as error:
        _log.warning("A stream of thread %s ends: %s", thread_id, error)
        yield b": the store is unavailable\n\n"


async def _followed(
    service: Service, thread_id: ThreadId, after: Version, *, until_idle: bool
) -> AsyncGenerator[bytes, None]:
    runtime, clock = service.runtime, asyncio.get_running_loop().time
    repository, broadcast = runtime.repository, runtime.turns.services.broadcast
    yield b": connected\n\n"
    last, seen = clock(), after
    glance = IDLE_S if until_idle else HEARTBEAT_S  # an idle stream costs nothing in between
    async with aclosing(follow(repository, broadcast, thread_id, after, glance)) as following:
        async for signal in following:
            passing = isinstance(signal, Delta | Withdrawn)
            if signal is not None:
                seen = signal.version if isinstance(signal, Recorded) else seen
                text = _event(signal)
                del signal  # while the client reads, nothing here holds it
                if len(text) <= PIECE_BYTES or passing:
                    yield text
                else:
                    again = partial(_again, service, thread_id, seen)
                    async with aclosing(service.send_buffer.pieces(text, again)) as pieces:
                        text = b""
                        async for piece in pieces:
                            yield piece
                last = clock()
            elif clock() - last >= HEARTBEAT_S - 1:
                yield b": ping\n\n"
                last = clock()
            if runtime.stopping.is_set():
                return
            if until_idle and not passing:
                row = await repository.store.thread(thread_id)
                if row and seen >= row.head.version and not row.in_turn:
                    return


async def _again(service: Service, thread_id: ThreadId, version: Version) -> bytes:
    """Read an event again, and write it as before."""
    runtime = service.runtime
    async with runtime.turns.services.broadcast.reading:
        (recorded,) = await runtime.repository.history(thread_id, Version(version - 1), version)
    return _event(recorded)


def _event(signal: Recorded | Delta | Withdrawn) -> bytes:
    shown: object
    match signal:
        case Recorded():
            head, shown = f"id: {signal.version}\nevent: {type(signal.event).__name__}", event_view(signal)
        case Delta(_, version, offset, text):
            head, shown = "event: delta", {"after": version, "offset": offset, "text": text}
        case Withdrawn(version=version):
            head, shown = "event: withdrawn", {"after": version}
    return f"{head}\ndata: ".encode() + msgspec.json.encode(shown) + b"\n\n"


def _version(last_event_id: str | None) -> Version | None:
    if last_event_id is None or not last_event_id.strip():
        return None
    why = "must be the id of an event of this stream, a version"
    return Version(number_of(last_event_id.strip(), "Last-Event-ID", lowest=0, why=why))
