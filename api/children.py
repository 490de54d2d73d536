"""Processes that a process starts: kept running as long as it lives itself, and no longer."""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

PAUSE = 1.0
"""Seconds before a process that died is started anew."""

_log = logging.getLogger(__name__)


async def _nothing() -> None:
    """Wait for nothing."""


async def keep(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int] = (),
    once_ready: Callable[[], Awaitable[object]] = _nothing,
) -> None:
    """Run `threadfold` with some arguments, and again when it dies, until this is cancelled.

    What is in `environment` is added to our own. `once_ready` is awaited when the first process has said a line.
    """
    first = True
    while True:
        # In a session of its own, it does not hear the terminal's Ctrl-C: we pass on what is to be done.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api", *arguments),
            env={**os.environ, **environment},
            pass_fds=descriptors,
            start_new_session=True,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            if process.stdout and await process.stdout.readline() and first:
                first = False
                await once_ready()
            status = await process.wait()
            _log.error("A process ended with status %s, and is started anew", status)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.shield(process.wait())
        await asyncio.sleep(PAUSE)


@contextmanager
def stopped_with_parent(stop: Callable[[], None]) -> Iterator[None]:
    """Stop when the parent is gone: then nobody holds the other end of our standard input."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def look() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            stop()

    loop.add_reader(stdin, look)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
