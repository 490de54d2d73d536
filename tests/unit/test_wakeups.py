"""Words between processes: none are sent while there is nobody to hear them."""

import asyncio
from uuid import uuid4

import pytest

from domain.ids import ThreadId, Version
from domain.ports.wakeups import Moved
from infrastructure import wakeups
from infrastructure.wakeups import BatchedWakeups

MOVED = Moved(ThreadId(uuid4()), Version(1))


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
                endpoint.heard(payload)

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
    while sender._words:
        await asyncio.sleep(0.001)
    return sum("moved" in text for text in channel.said[before:])


async def test_who_is_alone_says_nothing_until_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    time, channel = Time(), Channel()
    monkeypatch.setattr(wakeups, "time", time)
    monkeypatch.setattr(wakeups, "GREETING", 0.01)
    one = Endpoint(channel)
    await one.listening.wait()
    assert await said_of_moves(channel, one) == 1  # who has just come knows nothing of the others
    time.now += wakeups.ALONE + 1
    assert await said_of_moves(channel, one) == 0

    other = Endpoint(channel)
    while one._heard_at < time.now:
        await asyncio.sleep(0.001)
    assert await said_of_moves(channel, one) == 1

    channel.remove(other)
    await other.close()
    time.now += wakeups.ALONE + 1
    assert await said_of_moves(channel, one) == 0
    await one.close()
