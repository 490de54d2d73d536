"""How long a very long message holds everybody else up: the longest pause of the event loop, over HTTP.

    .venv/bin/python -m benchmarks.pauses [--characters 200000]

The server, its built-in model and the client share one loop here, so that every pause is seen: counting, the prompt,
the answer, what is looked for among older messages, and the JSON on both sides.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.http import running_api

TEXTS = {
    "words": "some words that people say here about things and more ",
    "lines": "2024-05-06, flight HAT136 costs $1,240.50 from SEA\n",
    "numbers": "1,2,3,4,5,6,7,8,9,",
    "one letter": "a",
    "Japanese": "これは長い日本語の文章です。空白はありません。",
}


@dataclass
class Longest:
    """The longest time between two turns of the loop, in seconds."""

    seconds: float = 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[Longest]:
    longest = Longest()

    async def beat() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            longest.seconds = max(longest.seconds, time.perf_counter() - began)

    beating = asyncio.create_task(beat())
    try:
        yield longest
    finally:
        beating.cancel()


async def main(characters: int) -> None:
    print(f"{'a message of':<12} {'turn':>8} {'pause':>8} {'pause in the next turn':>24}   (ms)")
    for kind, part in TEXTS.items():
        text = (part * characters)[:characters]
        async with running_api(database_url="memory://") as api:
            thread = await api.opened()
            await api.turn(thread, "hello there")
            began = time.perf_counter()
            async with watched() as first:
                answer = await api.turn(thread, text)
            took = time.perf_counter() - began
            async with watched() as later:
                await api.turn(thread, "and again about HAT136 flight words")
            assert answer.json()["status"] == "completed", answer.text
            print(f"{kind:<12} {took * 1e3:>8.0f} {first.seconds * 1e3:>8.0f} {later.seconds * 1e3:>24.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=200_000)
    asyncio.run(main(parser.parse_args().characters))
