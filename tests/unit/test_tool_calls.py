"""Tools answer to the model, each call for itself, and whatever becomes of it."""

import asyncio

import pytest

from domain.agents.assistant import assistant
from domain.agents.tools import Tool, ToolContext, tool
from domain.models.chat import ToolSpec
from domain.thread.events import ToolFailed, ToolOutcomeUnknown, ToolStarted, ToolSucceeded, TurnCompleted, TurnFailed
from tests.support.runtime import calls, double, one_node, says, stage


async def test_the_model_mends_its_call_after_a_tools_error() -> None:
    played = stage(
        assistant(tools=[double]),
        calls(("double", {"number": "many"})),
        calls(("double", {"number": 5_000})),
        calls(("treble", {})),
        calls(("double", {"number": 4})),
        says("8"),
    )
    await played.say("double four")
    told = [event.error for event in await played.happened(ToolFailed) if isinstance(event, ToolFailed)]
    assert told[0].startswith("double cannot be called like this: number: Input should be a valid integer")
    assert told[1:] == ["That is too much.", "There is no tool 'treble'. The tools are: double."]
    (success,) = await played.happened(ToolSucceeded)
    assert isinstance(success, ToolSucceeded)
    assert success.content == "8"
    last = played.script.asked[-1].messages
    assert [m.role for m in last[1:]] == ["user"] + ["assistant", "tool"] * 4
    assert await played.happened(TurnCompleted)


async def test_parallel_calls_of_one_message_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(name: str) -> str:
        """Wait for the other."""
        await both.wait()
        return f"{name} met"

    played = stage(assistant(tools=[meet]), calls(("meet", {"name": "a"}), ("meet", {"name": "b"})), says("done"))
    await asyncio.wait_for(played.say("meet"), 5)
    kinds = [type(event) for event in await played.happened(ToolStarted, ToolSucceeded)]
    assert kinds == [ToolStarted, ToolStarted, ToolSucceeded, ToolSucceeded]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_slow_tool_is_given_up_alone_and_may_have_had_its_effect(idempotent: bool) -> None:  # noqa: FBT001
    @tool(timeout=0.05, idempotent=idempotent)
    async def sleepy() -> str:
        """Sleep."""
        await asyncio.sleep(60)
        return "never"

    asked = calls(("sleepy", {}), ("double", {"number": 1}))
    played = stage(assistant(tools=[sleepy, double]), asked, says("ok"))
    await played.say("sleep")
    (late,) = await played.happened(ToolFailed, ToolOutcomeUnknown)
    assert isinstance(late, ToolFailed if idempotent else ToolOutcomeUnknown)
    assert late.error.startswith("sleepy did not answer within 0.05 s.")
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 2


async def test_a_tools_own_time_limit_is_its_own_failure() -> None:
    @tool
    async def hasty() -> str:
        """Give up early."""
        raise TimeoutError("the shop is closed")

    played = stage(assistant(tools=[hasty]), calls(("hasty", {})), says("sorry"))
    await played.say("go")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "TimeoutError: the shop is closed"


async def test_a_tool_may_do_with_its_arguments_what_it_likes() -> None:
    async def greedy(arguments: dict[str, object], _: ToolContext) -> str:
        arguments.clear()
        return "eaten"

    eater = Tool(ToolSpec("eat", "Eat.", {"type": "object"}), greedy)
    played = stage(assistant(tools=[eater]), calls(("eat", {"a": 1})), says("burp"))
    loaded = await played.say("eat")
    played.forget(played.thread_id)
    assert (await played.repository.load(played.thread_id)).state == loaded.state
    assert loaded.state.thread.window[1].tool_calls[0].arguments == {"a": 1}  # type: ignore[union-attr]


async def test_a_tool_that_gives_no_text_is_told_so() -> None:
    async def numeric(_: dict[str, object], __: ToolContext) -> int:
        return 7

    odd = Tool(ToolSpec("odd", "Be odd.", {"type": "object"}), numeric)
    played = stage(assistant(tools=[odd]), calls(("odd", {})), says("ok"))
    await played.say("go")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "odd gave int where text was expected"


async def test_a_tool_that_raises_anything_is_told_to_the_model() -> None:
    @tool
    async def broken() -> str:
        """Break."""
        raise ZeroDivisionError("\0 oops")

    played = stage(assistant(tools=[broken]), calls(("broken", {})), says("sorry"))
    await played.say("break")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "ZeroDivisionError: \ufffd oops"


async def test_a_huge_result_is_kept_up_to_a_limit() -> None:
    @tool
    async def endless() -> str:
        """Talk."""
        return "x" * 100_000

    played = stage(assistant(tools=[endless]), calls(("endless", {})), says("long"), context_window=1_000)
    await played.say("talk")
    (success,) = await played.happened(ToolSucceeded)
    assert isinstance(success, ToolSucceeded)
    assert success.content == "x" * 8_000 + "\n[cut: the result was longer than can be kept]"


async def test_a_slash_command_runs_a_tool_without_asking_the_model_first() -> None:
    played = stage(assistant(tools=[double], slash_commands=True), says("It is 42."))
    await played.say("/double 21")
    assert len(played.script.asked) == 1
    played.script.lines.append(says("44"))
    await played.say('/double {"number": 22}')
    results = [event.content for event in await played.happened(ToolSucceeded) if isinstance(event, ToolSucceeded)]
    assert results == ["42", "44"]


async def test_who_cancels_something_of_their_own_fails_and_does_not_vanish() -> None:
    async def cancel(_: object = None) -> str:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        return "never"

    @tool
    async def careless() -> str:
        """Cancel an inner task."""
        return await cancel()

    played = stage(assistant(tools=[careless]), calls(("careless", {})), says("sorry"))
    await played.say("go")
    assert len(await played.happened(ToolFailed, TurnCompleted)) == 2
    alone = stage(one_node(cancel))
    await alone.say("go")
    (failed,) = await alone.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "cancelled itself" in failed.detail
