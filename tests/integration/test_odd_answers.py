"""After each odd answer the next three turns of a thread succeed on a strict endpoint, and the transcript shows it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain

import pytest
import pytest_asyncio

from tests.fakes.odd_answers import ALWAYS, ARGUMENTS, FINISH_REASONS, IDS, NAMES, PARTS, Odd
from tests.fakes.odd_framings import FAILURES, FRAMINGS
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.strict_model import Answer, StrictModel
from tests.support.http import Api, running_api
from tests.support.odd_turns import faults, play

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES: Sequence[Odd] = (*NAMES, *IDS, *ARGUMENTS, *FINISH_REASONS, *PARTS, *ALWAYS)
"""What the model says is odd: it may come streamed or whole."""

BYTES: Sequence[Odd] = (*FRAMINGS, *FAILURES)
"""What is odd is how it is sent, or that it is no answer."""

AT_ONCE = 8
"""Threads that talk at the same time."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict() -> AsyncIterator[tuple[Api, StrictModel]]:
    """Run the application in memory with a strict endpoint."""
    model = StrictModel()
    async with OpenAIServer(otherwise=model) as server, _running("memory://", server) as api:
        yield api, model


def _running(database_url: str, server: OpenAIServer) -> AbstractAsyncContextManager[Api]:
    # A lease that a busy machine lets expire would have a turn taken over, and the model asked once more.
    agents = ("tests.support.odd_turns:odd",)
    return running_api(database_url=database_url, llm_endpoint=server.endpoint, agents=agents, lease_seconds=120)


@pytest.mark.parametrize("odd", [*MESSAGES, *BYTES], ids=lambda odd: odd.name)
async def test_a_thread_goes_on_after(strict: tuple[Api, StrictModel], odd: Odd) -> None:
    assert faults(await play(*strict, odd)) == []


@pytest.mark.parametrize("odd", MESSAGES[::6], ids=lambda odd: odd.name)
async def test_a_thread_goes_on_after_a_whole(strict: tuple[Api, StrictModel], odd: Odd) -> None:
    whole = [answer.reply(stream=False) for answer in odd.played if isinstance(answer, Answer)]
    assert faults(await play(*strict, odd, whole)) == []


async def test_a_thread_in_postgresql_goes_on_after_each(database_url: str) -> None:
    some = [*MESSAGES, *BYTES][::8]
    room = asyncio.Semaphore(AT_ONCE)
    model = StrictModel()

    async def fault_of(odd: Odd) -> list[str]:
        async with room:
            return [f"{odd.name}: {fault}" for fault in faults(await play(api, model, odd))]

    async with OpenAIServer(otherwise=model) as server, _running(database_url, server) as api:
        found = await asyncio.gather(*map(fault_of, some))
    assert list(chain.from_iterable(found)) == []
