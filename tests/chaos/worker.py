"""A worker process that may be told where to die."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess

import uvloop

from api.runtime.composition import open_runtime
from infrastructure.settings import load_settings
from tests.chaos.crashing import install

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.worker"])


def start(environment: Mapping[str, str]) -> ForkServerProcess:
    """Start a worker. It shares no memory with anybody, but has its modules loaded already."""
    process = _context.Process(target=_main, args=(dict(environment),), daemon=True)
    process.start()
    return process


def _main(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    install()
    uvloop.run(_work())


async def _work() -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    async with open_runtime(load_settings()) as runtime, runtime.working():
        await stopping.wait()
