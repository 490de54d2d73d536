"""Tools that ask the model to call them again, and tools that the runtime repeats itself."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from domain.agents.assistant import assistant
from domain.agents.graph import RetryPolicy
from domain.agents.tools import Tool, tool
from domain.errors import InvalidInput, Retry, ToolError
from domain.thread.codec import Metadata
from domain.thread.events import ToolFailed, ToolStarted, ToolSucceeded, TurnCompleted
from tests.support.runtime import Stage, calls, says, stage

WHY = "The day must be in the future."
AGAIN = f"{WHY}\nCall book again, with this corrected."
FOR_GOOD = f"{WHY}\nbook has failed for good in this turn. Do not call it again; go on without it."
FAST = RetryPolicy(attempts=3, first_delay=0.001)


def book(*, max_retries: int = 2) -> Tool:
    @tool(max_retries=max_retries, name="book")
    async def book(day: int) -> str:
        """Book a table."""
        if day < 10:
            raise Retry(WHY)
        return f"booked for {day}"

    return book


async def errors(played: Stage) -> list[str]:
    return [event.error for event in await played.happened(ToolFailed) if isinstance(event, ToolFailed)]


async def attempts(played: Stage) -> list[int]:
    return [event.attempt for event in await played.happened(ToolStarted) if isinstance(event, ToolStarted)]


def once(day: int) -> Any:
    return calls(("book", {"day": day}))


async def test_the_model_is_asked_to_call_again_within_a_bound() -> None:
    played = stage(assistant(tools=[book()]), *map(once, (1, 2, 3, 4, 11)), says("done"))
    await played.say("book")
    assert await errors(played) == [AGAIN, AGAIN, FOR_GOOD, FOR_GOOD]
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 2
    played.script.lines += [once(1), says("done")]
    await played.say("once more")
    assert (await errors(played))[-1] == AGAIN, "each turn counts for itself"


async def test_calls_at_the_same_time_share_the_bound() -> None:
    three = calls(("book", {"day": 1}), ("book", {"day": 2}), ("book", {"day": 3}))
    played = stage(assistant(tools=[book()]), three, says("done"))
    await played.say("book")
    assert sorted(await errors(played)) == sorted([AGAIN, AGAIN, FOR_GOOD])


async def test_no_retries_means_for_good_at_once() -> None:
    played = stage(assistant(tools=[book(max_retries=0)]), once(1), says("done"))
    await played.say("book")
    assert await errors(played) == [FOR_GOOD]


async def test_the_bound_outlives_the_process() -> None:
    played = stage(assistant(tools=[book(max_retries=1)]), once(1))
    begun = await played.begin("book")
    running = asyncio.create_task(played.turns.run(begun.loaded, Metadata()))
    await played.saved(ToolFailed)
    running.cancel()
    await asyncio.wait([running])
    played.script.lines = [once(2), says("done")]
    played.forget_hot()
    async with played.worker().working():
        await played.settled()
    assert await errors(played) == [AGAIN, FOR_GOOD]


class Flaky:
    """A tool that fails a number of times."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: ToolError("busy")) -> None:
        self.failures, self.error, self.runs = failures, error, 0

    def tool(self, policy: RetryPolicy = FAST, timeout: float = 30) -> Tool:
        @tool(name="look", idempotent=True, retry=policy, timeout=timeout)
        async def look(*, slow: bool = False) -> str:
            """Look."""
            self.runs += 1
            if self.runs <= self.failures:
                if slow:
                    await asyncio.sleep(60)
                raise self.error()
            return f"seen at attempt {self.runs}"

        return look


async def looked(flaky: Flaky, arguments: dict[str, object] | None = None, **settings: Any) -> Stage:
    agent = assistant(tools=[flaky.tool(**settings)])
    played = stage(agent, calls(("look", arguments or {})), says("done"))
    await played.say("look")
    return played


async def test_the_runtime_repeats_what_fails_before_the_model_reads_of_it() -> None:
    played = await looked(Flaky(2))
    assert await attempts(played) == [1, 2, 3]
    assert await errors(played) == []
    (success,) = await played.happened(ToolSucceeded)
    assert isinstance(success, ToolSucceeded)
    assert success.content == "seen at attempt 3"


async def test_the_last_failure_is_the_calls() -> None:
    flaky = Flaky(5, lambda: ConnectionError("refused"))
    played = await looked(flaky)
    assert (flaky.runs, await attempts(played)) == (3, [1, 2, 3])
    assert await errors(played) == ["ConnectionError: refused"]


async def test_timeouts_are_repeated_as_well() -> None:
    played = await looked(Flaky(1), {"slow": True}, timeout=0.05)
    assert await attempts(played) == [1, 2]
    assert await errors(played) == []


async def test_neither_a_retry_nor_wrong_arguments_are_repeated() -> None:
    asking = Flaky(5, lambda: Retry("look elsewhere"))
    assert await attempts(await looked(asking)) == [1]
    wrong = Flaky(0)
    played = await looked(wrong, {"slow": "perhaps"})
    assert (wrong.runs, await attempts(played)) == (0, [1])


async def test_attempts_of_a_crashed_process_count() -> None:
    flaky = Flaky(9)
    played = stage(assistant(tools=[flaky.tool(RetryPolicy(3, 0.2))]), calls(("look", {})), says("done"))
    begun = await played.begin("look")
    running = asyncio.create_task(played.turns.run(begun.loaded, Metadata()))
    while len(await attempts(played)) < 2:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    played.forget_hot()
    async with played.worker().working():
        await played.settled()
    assert await attempts(played) == [1, 2, 3]
    assert await errors(played) == ["busy"]


async def test_a_slow_policy_does_not_run_into_the_nodes_timeout() -> None:
    agent = assistant(tools=[Flaky(0).tool(RetryPolicy(4, 10, 2, 30), timeout=400)])
    assert agent.tools[0].longest == 4 * 400 + 10 + 20 + 30
    assert agent.graph.by_name["execute_tool"].timeout == agent.tools[0].longest + 30


def test_what_cannot_be_repeated_has_no_policy() -> None:
    with pytest.raises(InvalidInput, match="idempotent=True"):
        tool(retry=FAST, name="pay")(print_nothing)
    with pytest.raises(InvalidInput, match="max_retries"):
        tool(max_retries=-1, name="pay")(print_nothing)


async def print_nothing() -> str:
    return ""
