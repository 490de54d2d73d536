"""Words between processes: none are sent while no process hears them, and each is heard by those that know it."""

import asyncio
from contextlib import suppress
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct

from domain.ids import Tenant, ThreadId, Version, WorkerId
from domain.ports.wakeups import Delta, Lent, NewEvents, SharesChanged, TurnReady, Wakeup, Watched, Withdrawn
from infrastructure import wakeups
from infrastructure.wakeups import BatchedWakeups

MOVED = NewEvents(ThreadId(uuid4()), Version(1))


class Channel(list["Endpoint"]):
    """What every endpoint hears, and what was said in all."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []


class Endpoint(BatchedWakeups):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        super().__init__(1_000)

    async def publish(self, payloads: list[str]) -> None:
        self._channel.said += payloads
        for endpoint in self._channel:
            for payload in payloads:
                endpoint.receive(payload)

    async def listen_until_lost(self) -> None:
        self._channel.append(self)
        self.listening.set()
        await asyncio.Event().wait()


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


async def said_of_moves(channel: Channel, sender: Endpoint) -> int:
    before = len(channel.said)
    sender.send(MOVED)
    while sender._queue:
        await asyncio.sleep(0.001)
    return sum("moved" in text for text in channel.said[before:])


async def test_who_is_alone_says_nothing_until_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    time, channel = Time(), Channel()
    monkeypatch.setattr(wakeups, "time", time)
    monkeypatch.setattr(wakeups, "GREETING_S", 0.01)
    one = Endpoint(channel)
    await one.listening.wait()
    assert await said_of_moves(channel, one) == 1  # who has just come knows nothing of the others
    time.now += wakeups.ALONE_S + 1
    assert await said_of_moves(channel, one) == 0

    other = Endpoint(channel)
    while one._received_at < time.now:
        await asyncio.sleep(0.001)
    assert await said_of_moves(channel, one) == 1

    channel.remove(other)
    await other.close()
    time.now += wakeups.ALONE_S + 1
    assert await said_of_moves(channel, one) == 0
    await one.close()


EARLIER = SharesChanged | TurnReady | NewEvents | Delta | Withdrawn | Watched
"""The words of the version before `Lent`. A process of that version reads envelopes whole."""


class _OldEnvelope(Struct, array_like=True):
    sender: UUID
    words: list[EARLIER]


async def test_a_process_of_an_earlier_version_hears_the_words_that_it_knows() -> None:
    channel = Channel()
    sender = Endpoint(channel)
    await sender.listening.wait()
    ready = TurnReady(ThreadId(uuid4()), Tenant("acme"))
    for word in (Lent(WorkerId(uuid4())), ready, SharesChanged(), MOVED):
        sender.send(word)
    await sender.close()

    heard: list[EARLIER] = []
    for text in channel.said:
        with suppress(msgspec.ValidationError):
            heard += msgspec.json.decode(text, type=_OldEnvelope).words
    assert heard == [ready, SharesChanged(), MOVED]
    assert any("lent" in text for text in channel.said)


async def test_a_word_of_a_later_version_is_skipped_and_the_others_are_heard() -> None:
    channel = Channel()
    hearer = Endpoint(channel)
    heard: list[Wakeup] = []
    hearer.listen(heard.append)
    lent = Lent(WorkerId(uuid4()))
    words = [{"type": "paused", "thread_id": str(uuid4())}, MOVED, {"type": "moved"}, 7, lent]
    hearer.receive(msgspec.json.encode([uuid4(), words]).decode())
    assert heard == [MOVED, lent]
    await hearer.close()
