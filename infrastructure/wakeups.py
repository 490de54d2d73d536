"""What channels of wake-ups have in common: words are collected, joined, packed and sent together."""

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
from domain.ports.wakeups import Lent, Moved, Retracted, Spoken, Wakeup

CHANNEL = "threadfold"

ENVELOPE = 50
"""Bytes of a payload around its words, at most."""

MOST = 10_000
"""Words that are kept while the database is away; after that, the oldest are dropped."""

MOST_SPOKEN = 4_000_000
"""Characters of models' answers that are kept meanwhile: further ones are dropped, as provisional as they are."""

TOGETHER = 0.02
"""Seconds between two statements, in which words come together."""

GREETING = 2.0
"""Seconds between two greetings: an envelope without words, by which the others know that somebody listens."""

ALONE = 5 * GREETING
"""Seconds without a sign of anybody else after which words are not sent: who comes greets first, once it listens."""

PAUSE = 1.0
"""Seconds between two attempts to listen again."""

LATER = (Lent,)
"""Kinds of words that processes of an earlier version do not know, and with which they drop the whole envelope: they go
in envelopes of their own. A kind that is added belongs here for as long as such processes may run beside these."""

_log = logging.getLogger(__name__)


class _Envelope(Struct, array_like=True):
    sender: UUID
    words: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Envelope).decode
_decode_word = msgspec.json.Decoder(Wakeup).decode


class BatchedWakeups(ABC):
    """A `Wakeups` over a channel that carries texts of at most `largest` bytes."""

    def __init__(self, largest: int, background: BackgroundTasks | None = None) -> None:
        """Begin to listen, and to send what there is to say."""
        self._largest = largest
        self._me = uuid4()
        self._listeners: list[Callable[[Wakeup], None]] = []
        self._words: dict[Any, Wakeup] = {}
        self._spoken = 0
        self._told = asyncio.Event()
        self.listening = asyncio.Event()
        """Set while others can be heard."""
        self._heard_at = time.monotonic()
        self._background = background or BackgroundTasks()
        self._tasks = [
            self._background.start("wakeups_listener", self._listen_forever),
            self._background.start("wakeups_sender", self._send_forever),
            self._background.start("wakeups_greeter", self._greet_forever),
        ]

    def send(self, wakeup: Wakeup) -> None:
        """Put a word to the others that wait. One that says the same as another takes its place."""
        key: Any = (type(wakeup), getattr(wakeup, "thread_id", None))
        if isinstance(wakeup, Spoken):
            if self._spoken + len(wakeup.text) > MOST_SPOKEN:
                return
            self._spoken += len(wakeup.text)
            key = (*key, wakeup.version)
            wakeup = _joined(self._words.get(key), wakeup)
        elif isinstance(wakeup, Retracted):
            self._words.pop((Spoken, wakeup.thread_id, wakeup.version), None)
        elif isinstance(wakeup, Moved):
            before = self._words.get(key)
            wakeup = replace(wakeup, ended=wakeup.ended or (isinstance(before, Moved) and before.ended))
        self._words[key] = wakeup
        if len(self._words) > MOST:
            del self._words[next(iter(self._words))]
        self._told.set()

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def close(self) -> None:
        """Send what is left within a second, and let go."""
        await self._background.stop(*self._tasks)
        with suppress(Exception):
            async with asyncio.timeout(1):
                await self._send()

    async def _send_forever(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                await self._send()
            except Exception as error:  # noqa: BLE001  (a database that is away: whoever polls misses nothing)
                _log.debug("Wake-ups could not be sent: %r", error)
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(TOGETHER)

    async def _greet_forever(self) -> None:
        greeting = _encode(_Envelope(self._me, [])).decode()
        while True:
            await self.listening.wait()
            with suppress(Exception):  # as above
                await self.publish([greeting])
            await asyncio.sleep(GREETING)

    @property
    def _alone(self) -> bool:
        """Whether nobody else listens, as far as this process hears."""
        return self.listening.is_set() and time.monotonic() - self._heard_at > ALONE

    async def _send(self) -> None:
        words, self._words, self._spoken = self._words, {}, 0
        if words and not self._alone:
            await self.publish([*_payloads(self._me, words.values(), self._largest)])

    @abstractmethod
    async def publish(self, payloads: list[str]) -> None:
        """Send texts to all processes."""

    @abstractmethod
    async def listen_until_lost(self) -> None:
        """Hand texts to `heard`, with `listening` set meanwhile, until the connection is lost."""

    async def _listen_forever(self) -> None:
        complained = False
        while True:
            try:
                await self.listen_until_lost()
            except Exception as error:  # noqa: BLE001  (as above)
                if not complained:
                    _log.warning("Wake-ups are not heard, and the log is asked instead: %r", error)
                complained = True
            await asyncio.sleep(PAUSE)

    def heard(self, payload: str) -> None:
        """Tell the listeners what another process has sent."""
        try:
            envelope = _decode(payload)
        except msgspec.MsgspecError:
            _log.debug("A stranger's word on the channel %s is ignored", CHANNEL)
            return
        if envelope.sender == self._me:
            return
        self._heard_at = time.monotonic()
        for word in _known(envelope.words):
            for listener in list(self._listeners):
                try:
                    listener(word)
                except Exception:  # noqa: BLE001  (the others are to hear it)
                    _log.exception("A listener failed at %r", word)


def _joined(before: Wakeup | None, spoken: Spoken) -> Spoken:
    """Add to what is being said; what does not follow on it begins anew."""
    if isinstance(before, Spoken) and before.offset + len(before.text) == spoken.offset:
        return replace(before, text=before.text + spoken.text)
    return spoken


def _known(words: Iterable[msgspec.Raw]) -> Iterator[Wakeup]:
    """Read the words of an envelope. A process of a later version may say what this one does not know."""
    for word in words:
        try:
            yield _decode_word(word)
        except msgspec.MsgspecError:
            _log.debug("A word on the channel %s is not known here, and is ignored", CHANNEL)


def _payloads(sender: UUID, words: Iterable[Wakeup], largest: int) -> Iterator[str]:
    """Pack words, in their order, into payloads that the channel takes; those of later kinds separately, and last."""
    first, later = list[Wakeup](), list[Wakeup]()
    for word in words:
        (later if isinstance(word, LATER) else first).append(word)
    for together in filter(None, (first, later)):
        yield from _packed(sender, together, largest)


def _packed(sender: UUID, words: Iterable[Wakeup], largest: int) -> Iterator[str]:
    packed: list[msgspec.Raw] = []
    size = ENVELOPE
    for part in chain.from_iterable(_parts(word, largest // 8) for word in words):
        encoded = msgspec.Raw(_encode(part))
        length = len(bytes(encoded)) + 1
        if packed and size + length > largest:
            yield _encode(_Envelope(sender, packed)).decode()
            packed, size = [], ENVELOPE
        packed.append(encoded)
        size += length
    yield _encode(_Envelope(sender, packed)).decode()


def _parts(word: Wakeup, longest: int) -> Iterator[Wakeup]:
    """Split a text of more than `longest` characters. One takes up to 6 bytes in JSON."""
    if not isinstance(word, Spoken) or len(word.text) <= longest:
        yield word
        return
    for start in range(0, len(word.text), longest):
        yield replace(word, offset=word.offset + start, text=word.text[start : start + longest])
