"""An idle follower waits, and can be roused."""

import asyncio

from domain.application.streaming.broadcast import Broadcast
from domain.application.streaming.follow import follow
from domain.ids import START
from tests.streams import new_thread
from tests.unit.test_replay import sandbox


async def test_a_roused_follower_yields_none_without_waiting_for_its_time() -> None:
    broadcast, thread_id = Broadcast(), new_thread()
    following = follow(sandbox(), broadcast, thread_id, START, glance=3_600)
    waiting = asyncio.ensure_future(anext(following))
    for _ in range(5):
        await asyncio.sleep(0)
        broadcast.rouse()
    async with asyncio.timeout(60):
        assert await waiting is None
    again = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    broadcast.rouse()
    async with asyncio.timeout(60):
        assert await again is None
    await following.aclose()
