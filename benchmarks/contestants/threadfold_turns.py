"""Threadfold takes turns: the whole runtime in one process, with its worker, its projections and the hash chain.

A turn counts when its last event is stored. `read_models_s` is how long the read models need for what is left then.
With `--recall off`, nothing is looked for among older messages that the model is not shown: nobody else does that.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import asyncpg
import uvloop

from api.cli.bootstrap import tune_garbage_collection
from api.http.caller import Caller
from api.runtime.composition import Runtime, open_runtime
from api.services.threads import Service
from benchmarks.contestants.agent import InstantModel
from benchmarks.contestants.exchanges import said
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.sizes import size_of
from benchmarks.side_by_side.stretches import WARMING_UP, Meter, stretches, turn_options
from domain.errors import ThreadBusy
from domain.ids import ThreadId
from domain.models.chat import ChatModel
from domain.thread.events import Durability
from domain.thread.state import Idle
from infrastructure.settings import Settings

AGENT = "benchmarks.contestants.agent:airline"

PAUSE = 0.02

WRITE_SIDE = r"^[^.]+$"
READ_MODELS = r"^read_models\."


@asynccontextmanager
async def working(arguments: Namespace) -> AsyncIterator[Runtime]:
    """Open Threadfold with the settings that a new user has, but for the agent and the durability."""
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        database_url=arguments.database,
        agents=AGENT,
        durability=arguments.durability,
        recall=arguments.recall,
    )
    async with open_runtime(settings) as runtime, runtime.working():
        answer_at_once(runtime)
        tune_garbage_collection()  # as `threadfold serve` and `threadfold worker` do
        yield runtime


def answer_at_once(runtime: Runtime) -> None:
    """Put the instant model in the place of every provider's."""
    providers = cast("MutableMapping[str, ChatModel]", runtime.turns.services.models.providers)
    providers.update(dict.fromkeys(providers, InstantModel()))


async def main(arguments: Namespace) -> Figures:
    async with working(arguments) as runtime:
        service, meter = Service(runtime), Meter(arguments)
        threads = [ThreadId(runtime.new_id()) for _ in range(arguments.threads)]
        await converse(service, [ThreadId(runtime.new_id())], WARMING_UP, [])
        before = await size_of(arguments.database, WRITE_SIDE)
        done = 0
        for stretch in stretches(arguments):
            await bring_on(service, threads, range(done, stretch.start))
            with meter:
                await converse(service, threads, stretch, meter.seconds)
            done = stretch.stop
        began = time.perf_counter()
        await runtime.catch_up()
        behind = time.perf_counter() - began
        return {**meter.told(), "read_models_s": behind, **await _taken(arguments, before, len(threads) * done)}


async def bring_on(service: Service, threads: list[ThreadId], turns: range) -> None:
    """Take turns that are not measured: real ones, as quickly as possible, and leave nothing of them to do."""
    runtime, services = service.runtime, service.runtime.turns.services
    runtime.turns.services = replace(services, recall=None)
    await converse(service, threads, turns, [], "turn")
    await runtime.catch_up()
    runtime.turns.services = services


async def converse(
    service: Service,
    threads: list[ThreadId],
    turns: range,
    seconds: list[float],
    durability: Durability | None = None,
    first: int = 0,
) -> None:
    """Take these turns in all threads at the same time, one after the other in each. They are numbered from `first`."""

    async def talk(number: int, thread_id: ThreadId) -> None:
        for turn in turns:
            began = time.perf_counter()
            await _take(service, thread_id, said(number, turn), durability)
            seconds.append(time.perf_counter() - began)
        while turns and not isinstance((await service.existing(thread_id, Caller())).state, Idle):
            await asyncio.sleep(PAUSE)

    await asyncio.gather(*[talk(number, thread_id) for number, thread_id in enumerate(threads, first)])


async def _take(service: Service, thread_id: ThreadId, words: str, durability: Durability | None) -> None:
    """Take a turn, and wait until its end is stored.

    Where a machine stalls for so long that leases run out, a turn is taken up again later: then the next one waits.
    """
    while True:
        try:
            await service.start_turn(thread_id, words, Caller(), open_with="airline", durability=durability)
            break
        except ThreadBusy:
            await asyncio.sleep(PAUSE)
    await service.runtime.turns.wait(thread_id)


async def _taken(arguments: Namespace, before: Figures, turns: int) -> Figures:
    """Count what a turn has left in the log, and make sure that each has ended."""
    connection = await asyncpg.connect(arguments.database)
    counted = dict(await connection.fetch("SELECT type, count(*) FROM events GROUP BY type"))
    await connection.close()
    ended = counted["TurnCompleted"]
    if ended != turns + len(WARMING_UP):
        raise RuntimeError(f"{ended} turns have ended, {turns + len(WARMING_UP)} were begun: {counted}")
    after = await size_of(arguments.database, WRITE_SIDE)
    events = sum(counted.values()) - counted["ThreadOpened"]
    return {"events_per_turn": events / ended, "bytes_per_turn": (after["bytes"] - before["bytes"]) / turns}


if __name__ == "__main__":
    given = turn_options(recall=str)
    say(uvloop.run(main(given)))
