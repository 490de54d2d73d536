"""Plain functions as tools run in threads that block neither the event loop nor the end of the process."""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Iterator
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import pytest

from domain.agents.assistant import assistant
from domain.agents.tool_threads import ToolThreads
from domain.agents.tools import ToolContext, tool
from domain.errors import ToolError
from domain.ids import ThreadId
from domain.thread.events import ToolFailed, ToolOutcomeUnknown, ToolSucceeded, TurnCompleted
from tests.support.runtime import calls, says, stage

CALL = ToolContext(ThreadId(UUID(int=1)), "call_1", "key-1")
WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def test_a_plain_function_runs_in_a_thread_with_its_context() -> None:
    @tool
    def whoami(context: ToolContext, greeting: str) -> dict[str, str]:
        """Say who it is."""
        return {
            "thread": threading.current_thread().name,
            "who": WHO.get(),
            "said": f"{greeting} {context.call_id}",
        }

    WHO.set("ada")
    assert await whoami.run({"greeting": "hi"}, CALL) == '{"thread":"tool \'whoami\'","who":"ada","said":"hi call_1"}'
    assert list(whoami.spec.parameters["properties"]) == ["greeting"]
    with pytest.raises(ToolError, match="greeting"):
        await whoami.run({}, CALL)


async def test_it_does_not_stop_the_event_loop_and_its_outcome_is_recorded() -> None:
    released = threading.Event()

    @tool
    def wait() -> str:
        """Wait until the other has run."""
        assert released.wait(20)
        return "waited"

    @tool
    async def release() -> str:
        """Let the other go on."""
        released.set()
        return "released"

    played = stage(assistant(tools=[wait, release]), calls(("wait", {}), ("release", {})), says("done"))
    await played.say("go")
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 3


@pytest.mark.parametrize("idempotent", [True, False])
async def test_one_that_does_not_return_is_left_alone_after_its_time(
    caplog: pytest.LogCaptureFixture,
    idempotent: bool,  # noqa: FBT001
) -> None:
    released = threading.Event()

    @tool(timeout=0.05, idempotent=idempotent)
    def stay() -> str:
        """Stay."""
        released.wait(20)
        return "too late"

    played = stage(assistant(tools=[stay]), calls(("stay", {})), says("I see"))
    async with asyncio.timeout(10):
        await played.say("go")
    (late,) = await played.happened(ToolFailed, ToolOutcomeUnknown)
    assert isinstance(late, ToolFailed if idempotent else ToolOutcomeUnknown)
    assert late.error.startswith("stay did not answer within 0.05 s.")
    assert "tool 'stay' is a plain function, which cannot be cancelled" in caplog.text
    before = await played.events()
    released.set()
    while "whose call was cancelled, has ended now" not in caplog.text:
        await asyncio.sleep(0.01)
    assert await played.events() == before


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3: the code tried to end the process"),
        (KeyboardInterrupt(), "KeyboardInterrupt: the code tried to end the process"),
        (StopIteration("enough"), "RuntimeError: coroutine raised StopIteration"),
        (ToolError("closed"), "closed"),
        (ValueError("bad"), "ValueError: bad"),
    ],
)
async def test_what_it_raises_is_told_to_the_model(error: BaseException, text: str) -> None:
    @tool
    def act() -> str:
        """Act."""
        raise error

    played = stage(assistant(tools=[act]), calls(("act", {})), says("sorry"))
    async with asyncio.timeout(10):
        await played.say("go")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == text


async def test_as_many_run_at_once_as_may_and_the_others_wait() -> None:
    threads, running, most = ToolThreads(3), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*[threads.run(work, "work") for _ in range(20)])
    assert most <= 3
    assert threads._free == 3


async def test_who_waits_for_a_thread_in_vain_takes_none() -> None:
    threads, released = ToolThreads(1), threading.Event()
    first = asyncio.create_task(threads.run(lambda: released.wait(20), "first"))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await threads.run(lambda: None, "second")
    third = asyncio.create_task(threads.run(lambda: "third", "third"))
    await asyncio.sleep(0)
    released.set()
    assert await third == "third"
    await first
    assert threads._free == 1


async def test_a_thread_that_is_left_alone_gives_its_place_back_when_it_ends() -> None:
    threads, released = ToolThreads(1), threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await threads.run(lambda: released.wait(20), "stays")
    assert threads._free == 0
    released.set()
    assert await threads.run(lambda: "next", "next") == "next"


def test_threads_end_with_the_process() -> None:
    async def main() -> bool:
        daemon: bool = await ToolThreads().run(lambda: threading.current_thread().daemon, "any")
        return daemon

    assert asyncio.run(main())


class Shop:
    """Sells things."""

    async def __call__(self, item: str) -> str:
        return f"{item} sold"


class SlowShop:
    def __call__(self, item: str) -> str:
        """Sell slowly."""
        return f"{item} sold in {threading.current_thread().name}"


async def pay(item: str, key: str, count: int = 1) -> str:
    """Pay for something."""
    return f"{count} {item} paid with {key}"


def pay_slowly(item: str, key: str) -> str:
    """Pay for something slowly."""
    return f"{item} paid with {key}"


async def test_partials_hide_what_they_bind() -> None:
    for function in (pay, pay_slowly):
        made = tool(functools.partial(function, key="s3cret"))
        assert made.name == function.__name__
        assert made.spec.description == function.__doc__
        assert "key" not in made.spec.parameters["properties"]
        assert "s3cret" not in str(made.spec)
        assert "tea paid with s3cret" in await made.run({"item": "tea"}, CALL)
        with pytest.raises(ToolError, match="key"):
            await made.run({"item": "tea", "key": "other"}, CALL)


async def test_objects_that_are_called_need_a_name() -> None:
    assert await tool(name="shop")(Shop()).run({"item": "tea"}, CALL) == "tea sold"
    assert await tool(name="slow")(SlowShop()).run({"item": "tea"}, CALL) == "tea sold in tool 'slow'"
    with pytest.raises(TypeError, match=r"A tool made of a Shop needs a name: @tool\(name=\.\.\.\)"):
        tool(Shop())


async def test_a_plain_function_may_return_something_to_wait_for() -> None:
    @tool
    def later(item: str) -> Awaitable[str]:
        """Pay later."""
        return pay(item, "cash")

    assert await later.run({"item": "tea"}, CALL) == "1 tea paid with cash"


async def test_a_decorator_without_async_still_waits_for_what_it_wraps() -> None:
    @functools.wraps(pay)
    def traced(*arguments: Any, **named: Any) -> Awaitable[str]:
        return pay(*arguments, **named)

    assert await tool(traced).run({"item": "tea", "key": "k"}, CALL) == "1 tea paid with k"


def test_generators_are_no_tools() -> None:
    async def lines() -> object:
        yield "a"

    def more() -> Iterator[str]:
        yield "a"

    for function, kind in ((lines, "an async generator"), (more, "a generator")):
        with pytest.raises(TypeError, match=f"The tool {function.__name__} is {kind}; it must return its result"):
            tool(function)


@pytest.fixture(autouse=True)
def talkative(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
