"""What channels of wake-ups share: messages are collected, merged and sent in batches."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from domain.application.background_tasks import BackgroundTasks
from domain.ports.wakeups import Delta, Lent, NewEvents, Wakeup, Withdrawn

CHANNEL = "threadfold"

MAX_ENVELOPE_BYTES = 50
"""Bytes of an envelope around its wake-ups."""

MAX_QUEUED = 10_000
"""Wake-ups that wait while the channel is unavailable; beyond that, the oldest are dropped."""

MAX_QUEUED_CHARACTERS = 4_000_000
"""Characters of models' answers that wait meanwhile: further ones are dropped, since they are provisional."""

BATCH_PAUSE_S = 0.02
"""Seconds between two batches."""

GREETING_S = 2.0
"""Seconds between two greetings: an empty envelope by which the other processes know that this one listens."""

ALONE_S = 5 * GREETING_S
"""Seconds without an envelope of another process after which nothing is sent: a new process greets once it listens."""

RETRY_PAUSE_S = 1.0
"""Seconds between two attempts to listen or to send."""

NEW_KINDS = (Lent,)
"""Kinds of wake-ups that processes of an earlier version do not know. These drop an envelope with an unknown kind, so
the new ones get separate envelopes. Add a new kind here for as long as such processes may run at the same time."""

_log = logging.getLogger(__name__)


class _Envelope(Struct, array_like=True):
    sender: UUID
    words: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Envelope).decode
_decode_word = msgspec.json.Decoder(Wakeup).decode


class Listeners:
    """Functions that are called with each wake-up that arrives."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Wakeup], None]] = []

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def hear(self, wakeup: Wakeup) -> None:
        for listener in list(self._listeners):
            try:
                listener(wakeup)
            except Exception:  # noqa: BLE001  (the other listeners must still get it)
                _log.exception("A listener failed at %r", wakeup)


class BatchedWakeups(Listeners, ABC):
    """A `Wakeups` over a channel for payloads of at most `max_bytes`."""

    def __init__(self, max_bytes: int, background: BackgroundTasks | None = None) -> None:
        """Begin to listen and to send, in background tasks."""
        super().__init__()
        self._max_bytes = max_bytes
        self._me = uuid4()
        self._queue: dict[Any, Wakeup] = {}
        self._queued_characters = 0
        self._queued = asyncio.Event()
        self.listening = asyncio.Event()
        """Set while messages of other processes can arrive."""
        self._received_at = time.monotonic()
        self._background = background or BackgroundTasks()
        self._tasks = [
            self._background.start("wakeups_listener", self._listen_forever),
            self._background.start("wakeups_sender", self._send_forever),
            self._background.start("wakeups_greeter", self._greet_forever),
        ]

    def send(self, wakeup: Wakeup) -> None:
        """Queue a wake-up. It replaces a queued one of the same kind and thread, or is merged with it."""
        key: Any = (type(wakeup), getattr(wakeup, "thread_id", None))
        if isinstance(wakeup, Delta):
            if self._queued_characters + len(wakeup.text) > MAX_QUEUED_CHARACTERS:
                return
            self._queued_characters += len(wakeup.text)
            key = (*key, wakeup.version)
            wakeup = _joined(self._queue.get(key), wakeup)
        elif isinstance(wakeup, Withdrawn):
            self._queue.pop((Delta, wakeup.thread_id, wakeup.version), None)
        elif isinstance(wakeup, NewEvents):
            before = self._queue.get(key)
            wakeup = replace(wakeup, ended=wakeup.ended or (isinstance(before, NewEvents) and before.ended))
        self._queue[key] = wakeup
        if len(self._queue) > MAX_QUEUED:
            del self._queue[next(iter(self._queue))]
        self._queued.set()

    async def close(self) -> None:
        """Send what is queued, within a second, and stop."""
        await self._background.stop(*self._tasks)
        with suppress(Exception):
            async with asyncio.timeout(1):
                await self._send()

    async def _send_forever(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            try:
                await self._send()
            except Exception as error:  # noqa: BLE001  (the channel is unavailable; workers poll, so they miss nothing)
                _log.debug("Wake-ups could not be sent: %r", error)
                await asyncio.sleep(RETRY_PAUSE_S)
            await asyncio.sleep(BATCH_PAUSE_S)

    async def _greet_forever(self) -> None:
        greeting = _encode(_Envelope(self._me, [])).decode()
        while True:
            await self.listening.wait()
            with suppress(Exception):  # as above
                await self.publish([greeting])
            await asyncio.sleep(GREETING_S)

    async def _send(self) -> None:
        words, self._queue, self._queued_characters = self._queue, {}, 0
        alone = (
            self.listening.is_set() and time.monotonic() - self._received_at > ALONE_S
        )  # as far as this one can tell
        if words and not alone:
            await self.publish([*_payloads(self._me, words.values(), self._max_bytes)])

    @abstractmethod
    async def publish(self, payloads: list[str]) -> None:
        """Send payloads to all processes."""

    @abstractmethod
    async def listen_until_lost(self) -> None:
        """Pass payloads to `receive`, with `listening` set, until the connection is lost."""

    async def _listen_forever(self) -> None:
        warned = False
        while True:
            try:
                await self.listen_until_lost()
            except Exception as error:  # noqa: BLE001  (as above)
                if not warned:
                    _log.warning("Wake-ups do not arrive; the log is polled instead: %r", error)
                warned = True
            await asyncio.sleep(RETRY_PAUSE_S)

    def receive(self, payload: str) -> None:
        """Pass the wake-ups of another process to the listeners."""
        try:
            envelope = _decode(payload)
        except msgspec.MsgspecError:
            _log.debug("A payload of another program on the channel %s is ignored", CHANNEL)
            return
        if envelope.sender == self._me:
            return
        self._received_at = time.monotonic()
        for word in envelope.words:
            try:
                self.hear(_decode_word(word))
            except msgspec.MsgspecError:  # a process of a later version may send unknown kinds
                _log.debug("An unknown kind of wake-up on the channel %s is ignored", CHANNEL)


def _joined(before: Wakeup | None, spoken: Delta) -> Delta:
    """Append a delta to the queued one; a delta that does not follow it replaces it."""
    if isinstance(before, Delta) and before.offset + len(before.text) == spoken.offset:
        return replace(before, text=before.text + spoken.text)
    return spoken


def _payloads(sender: UUID, words: Iterable[Wakeup], max_bytes: int) -> Iterator[str]:
    """Pack wake-ups in their order into payloads for the channel; new kinds come last, in separate ones."""
    first, later = list[Wakeup](), list[Wakeup]()
    for word in words:
        (later if isinstance(word, NEW_KINDS) else first).append(word)
    for together in filter(None, (first, later)):
        yield from _packed(sender, together, max_bytes)


def _packed(sender: UUID, words: Iterable[Wakeup], max_bytes: int) -> Iterator[str]:
    packed: list[msgspec.Raw] = []
    size = MAX_ENVELOPE_BYTES
    for part in chain.from_iterable(_parts(word, max_bytes // 8) for word in words):
        encoded = msgspec.Raw(_encode(part))
        length = len(bytes(encoded)) + 1
        if packed and size + length > max_bytes:
            yield _encode(_Envelope(sender, packed)).decode()
            packed, size = [], MAX_ENVELOPE_BYTES
        packed.append(encoded)
        size += length
    yield _encode(_Envelope(sender, packed)).decode()


def _parts(word: Wakeup, longest: int) -> Iterator[Wakeup]:
    """Split a delta of more than `longest` characters. A character takes up to 6 bytes in JSON."""
    if not isinstance(word, Delta) or len(word.text) <= longest:
        yield word
        return
    for start in range(0, len(word.text), longest):
        yield replace(word, offset=word.offset + start, text=word.text[start : start + longest])
