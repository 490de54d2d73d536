"""With durability `async`, the answer is given from Redis and stored behind it: what is lost when, and what is not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from domain.agents.assistant import assistant
from domain.application.audit.verify import verify_thread
from domain.application.command_handler import CommandRequest, CommandResult, execute
from domain.application.turns.run import TurnRun
from domain.ids import Position, TurnId
from domain.ports.log import Append
from domain.thread.codec import Metadata
from domain.thread.commands import OpenThread, StartTurn, UpdateValues
from domain.thread.events import MessageAppended, TurnCompleted, TurnResumed
from domain.thread.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.redis.hot import RedisHotStore
from tests.e2e.server_process import threadfold
from tests.support.redis_server import RedisServer
from tests.support.runtime import Stage, says, stage


class Behind(MemoryEventStore):
    """A store whose appends can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, append: Append) -> Position:
        await self.open.wait()
        return await super().append(append)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, Redis]]:
    with RedisServer(tmp_path) as server:
        client = Redis.from_url(server.url)
        yield server, client
        await client.aclose()


async def begin(played: Stage) -> CommandResult:
    graph = played.agent.graph
    start = StartTurn(TurnId(uuid4()), "hello", 1, graph.first, graph.fingerprint, durability="async")
    return await execute(
        played.repository, CommandRequest(played.thread_id, lambda _: (OpenThread(played.agent.name), start))
    )


async def answered(played: Stage, store: Behind) -> TurnRun:
    """Have a turn answered whose end is not stored."""
    started = await begin(played)
    state = started.loaded.state
    assert isinstance(state, Running)
    store.open.clear()
    played.turns.start(started.loaded, Metadata())
    run = played.turns.answering(played.thread_id, TurnId(state.turn.turn_id))
    assert run is not None
    await asyncio.wait_for(run.answered.wait(), 5)
    return run


def playing(hot: RedisHotStore) -> tuple[Stage, Behind]:
    store = Behind()
    return stage(assistant(), says("hi"), says("hi again"), store=store, hot=hot), store


async def crash(played: Stage, store: Behind) -> None:
    """End the turn's task as a crash would, without a chance to store anything."""
    run, task = played.turns._runs.pop(played.thread_id)
    run.drop_staged()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.open.set()


async def test_an_answer_outlives_its_process_and_is_stored_as_it_was(redis: tuple[RedisServer, Redis]) -> None:
    hot = RedisHotStore(redis[1], "test")
    played, store = playing(hot)
    run = await answered(played, store)
    told = run.loaded.head
    assert not await played.happened(TurnCompleted)
    await crash(played, store)
    async with played.worker().working():
        await played.settled()
    assert (await played.repository.load(played.thread_id)).head == told
    assert len(await played.happened(TurnCompleted)) == 1
    assert len(played.script.asked) == 1, "the model is not asked again"
    assert not await played.happened(TurnResumed)
    assert await hot.get(played.thread_id) is None
    assert (await verify_thread(store, played.thread_id)).problems == ()


async def test_what_is_stored_is_held_no_longer(redis: tuple[RedisServer, Redis]) -> None:
    hot = RedisHotStore(redis[1], "test")
    played, store = playing(hot)
    await answered(played, store)
    assert await hot.get(played.thread_id) is not None
    store.open.set()
    await played.turns.wait(played.thread_id)
    assert await hot.get(played.thread_id) is None
    assert len(await played.happened(TurnCompleted)) == 1


async def test_if_redis_is_lost_with_the_process_the_turn_runs_again(redis: tuple[RedisServer, Redis]) -> None:
    hot = RedisHotStore(redis[1], "test")
    played, store = playing(hot)
    await answered(played, store)
    await redis[1].flushall()
    await crash(played, store)
    async with played.worker().working():
        await played.settled()
    said = [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
    assert said == ["hello", "hi again"]
    assert len(await played.happened(TurnCompleted)) == 1


async def test_if_somebody_has_written_since_the_turn_goes_on_after_that(redis: tuple[RedisServer, Redis]) -> None:
    hot = RedisHotStore(redis[1], "test")
    played, store = playing(hot)
    await answered(played, store)
    await crash(played, store)
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (UpdateValues({"a": 1}),)))
    async with played.worker().working():
        await played.settled()
    said = [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
    assert said == ["hello", "hi again"]
    assert await hot.get(played.thread_id) is None


async def test_while_redis_is_away_nothing_is_answered_before_it_is_stored(redis: tuple[RedisServer, Redis]) -> None:
    played, store = playing(RedisHotStore(redis[1], "test"))
    redis[0].kill()
    started = await begin(played)
    state = started.loaded.state
    assert isinstance(state, Running)
    played.turns.start(started.loaded, Metadata())
    run = played.turns.answering(played.thread_id, TurnId(state.turn.turn_id))
    assert run is not None
    await played.turns.wait(played.thread_id)
    assert not run.answered.is_set()
    assert len(await played.happened(TurnCompleted)) == 1
    assert store.open.is_set()


async def test_a_service_with_redis_answers_and_its_processes_hear_each_other(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DURABILITY": "async", "MAX_CONNECTIONS": "5"}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    async with (
        threadfold(tmp_path / "one", **settings) as one,
        threadfold(tmp_path / "other", **settings) as other,
        httpx.AsyncClient(timeout=30, trust_env=False) as client,
    ):
        for number in range(20):
            opened = (await client.post(f"{one.url}/v1/threads", json={})).json()["thread_id"]
            path = f"/v1/threads/{opened}/turns"
            for server in (one, other):
                body = {"user_input": f"/calculate {number} + 1", "strategy": "enqueue"}
                said = await client.post(f"{server.url}{path}", params={"wait": True}, json=body)
                assert said.json()["answer"] == f"calculate says: {number + 1}", said.text
