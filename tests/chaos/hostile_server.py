"""A server that measures itself: how long a callback held its event loop, and how much memory it took.

Time is that of the loop's thread on a processor, so another process on the machine is not counted. Memory is the
highest resident size since the last question, above the size before. A second port answers with both and starts over.
It runs on asyncio's own event loop, because only that can be measured callback by callback.
"""

import asyncio
import gc
import json
import os
import sys
import time
from asyncio import events
from pathlib import Path
from typing import Any

import uvloop

from api.cli.serve import serve

CLEAR_PEAK = "5"
"""What Linux takes for: count the highest resident size from now on."""

CONTROL_PORT = "HOSTILE_CONTROL_PORT"
"""The variable with the number of the second port."""


class Watchdog:
    """Measures each callback of the event loop."""

    def __init__(self) -> None:
        """Take the place of what runs a callback."""
        self._longest, self._what, self._base = 0.0, "", 0
        run = events.Handle._run
        clock = time.thread_time

        def measured(handle: Any) -> None:
            began = clock()
            run(handle)
            if (took := clock() - began) > self._longest:
                self._longest, self._what = took, repr(handle)[:300]

        events.Handle._run = measured  # type: ignore[method-assign, assignment]

    def taken(self) -> dict[str, Any]:
        """Return what was measured since the last time, and start over."""
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        peak = int(sizes["VmHWM"][0]) * 1024
        found = {"seconds": self._longest, "what": self._what, "bytes": max(peak - self._base, 0)}
        gc.collect()
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
        resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
        self._longest, self._what, self._base = 0.0, "", int(resident.split()[1]) * 1024
        return found


def main() -> None:
    """Serve, and answer at the second port."""
    watchdog = Watchdog()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(watchdog.taken()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    run_plain = asyncio.Runner.run

    def run(runner: asyncio.Runner, coroutine: Any, **how: Any) -> Any:
        async def both() -> Any:
            async with await asyncio.start_server(answer, "127.0.0.1", int(os.environ[CONTROL_PORT])):
                return await coroutine

        return run_plain(runner, both(), **how)

    asyncio.Runner.run = run  # type: ignore[method-assign, assignment]
    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    serve.main(args=sys.argv[1:])


if __name__ == "__main__":
    main()
