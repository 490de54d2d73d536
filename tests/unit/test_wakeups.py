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


async def said_of_moves(channel: Channel, sender: Endpoint) -> int:
    before = len(channel.said)
    sender.send(MOVED)
    await asyncio.sleep(0.05)
    return sum("moved" in text for text in channel.said[before:])


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "GREETING", 0.1)
    monkeypatch.setattr(wakeups, "ALONE", 0.3)


@pytest.mark.usefixtures("_impatient")
async def test_who_is_alone_says_nothing_until_somebody_comes() -> None:
    channel = Channel()
    one = Endpoint(channel)
    await asyncio.sleep(0.05)
    assert await said_of_moves(channel, one) == 1  # who has just come knows nothing of the others
    await asyncio.sleep(0.4)
    assert await said_of_moves(channel, one) == 0

    other = Endpoint(channel)
    await asyncio.sleep(0.05)
    assert await said_of_moves(channel, one) == 1

    channel.remove(other)
    await other.close()
    await asyncio.sleep(0.4)
    assert await said_of_moves(channel, one) == 0
    await one.close()
