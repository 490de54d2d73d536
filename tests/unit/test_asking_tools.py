"""Tools that ask a person themselves, in the middle of a call."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from domain.agents.agent import TurnContext
from domain.agents.assistant import assistant
from domain.agents.tools import ToolContext, tool
from domain.application.command_handler import CommandRequest, execute
from domain.errors import ApprovalRequired
from domain.ids import TurnId
from domain.thread.approvals import hash_of_call
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, Command, DecideApproval
from domain.thread.describe import describe
from domain.thread.events import (
    ApprovalGranted,
    ApprovalRequested,
    NodeEvent,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnFailed,
)
from domain.thread.state import Call, Running
from domain.thread.turn_end import CALL_NOT_RUN
from tests.support.runtime import Stage, calls, one_node, says, stage

WHY = "More than 100 needs a person."


@dataclass
class Till:
    """What tools pay from. `hang`: the next payment never returns."""

    paid: list[int] = field(default_factory=list)
    hang: bool = False
    hanging: asyncio.Event = field(default_factory=asyncio.Event)


@tool(name="pay", idempotent=True)
async def pay(amount: int, context: ToolContext[Till]) -> str:
    """Pay."""
    if amount > 100:
        context.require_approval(WHY)
    if context.deps.hang:
        context.deps.hanging.set()
        await asyncio.sleep(60)
    context.deps.paid.append(amount)
    return f"paid {amount}"


@tool(name="pay")
def pay_once(amount: int, context: ToolContext[Till]) -> str:
    """Pay, in a thread."""
    context.require_approval(WHY)
    context.deps.paid.append(amount)
    return f"paid {amount}"


def shop(*amounts: int, used: object = pay) -> tuple[Till, Stage]:
    till = Till()
    requests = [("pay", {"amount": amount}) for amount in amounts]
    agent = assistant(tools=[used], deps=till)  # type: ignore[list-item]
    return till, stage(agent, calls(*requests), says("done"))  # type: ignore[arg-type]


async def open_call(played: Stage) -> Call:
    state = (await played.repository.load(played.thread_id)).state
    assert isinstance(state, Running)
    (call,) = state.turn.calls
    return call


async def act(played: Stage, command: Command) -> None:
    outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (command,)))
    played.forget_hot()
    await played.turns.run(outcome.loaded, Metadata())


async def grant(played: Stage, arguments: dict[str, object] | None = None) -> None:
    call = await open_call(played)
    await act(played, DecideApproval(call.version, call.hash, "grant", arguments))


@pytest.mark.parametrize("used", [pay, pay_once])
async def test_a_call_waits_before_its_effect_and_goes_on_once_it_is_granted(used: object) -> None:
    till, played = shop(500, used=used)
    assert (await played.say("pay")).state.waiting
    assert till.paid == []
    call = await open_call(played)
    assert (call.reason, call.hash) == (WHY, hash_of_call("pay", {"amount": 500}, WHY))
    await grant(played)
    assert till.paid == [500]
    kinds = [type(e) for e in await played.happened(ToolStarted, ApprovalRequested, ApprovalGranted, ToolSucceeded)]
    assert kinds == [ToolStarted, ApprovalRequested, ApprovalGranted, ToolStarted, ToolSucceeded]
    (asked,) = await played.happened(ApprovalRequested)
    assert describe(asked).endswith(f'may go on: "{WHY}"')


@pytest.mark.parametrize("how", ["caught", "grouped"])
async def test_a_tool_that_catches_its_errors_waits_nevertheless(how: str) -> None:
    @tool(name="pay")
    async def careful(amount: int, context: ToolContext[Till]) -> str:
        """Pay, and say what went wrong."""

        async def ask() -> None:
            context.require_approval(WHY)

        try:
            if how == "grouped":
                async with asyncio.TaskGroup() as group:
                    group.create_task(ask())
            else:
                await ask()
            context.deps.paid.append(amount)
        except Exception as error:  # noqa: BLE001
            return f"failed: {error}"
        return f"paid {amount}"

    till, played = shop(500, used=careful)
    assert (await played.say("pay")).state.waiting
    assert till.paid == []
    await grant(played)
    assert till.paid == [500]


async def test_a_node_that_raises_it_has_failed() -> None:
    async def node(_: TurnContext) -> Sequence[NodeEvent]:
        raise ApprovalRequired(WHY)

    played = stage(one_node(node))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "ApprovalRequired" in failed.detail


async def test_other_calls_do_not_wait() -> None:
    till, played = shop(5, 500)
    assert (await played.say("pay")).state.waiting
    assert till.paid == [5]
    await grant(played)
    assert till.paid == [5, 500]


async def test_a_person_may_change_the_arguments() -> None:
    till, played = shop(500)
    await played.say("pay")
    await grant(played, {"amount": 400})
    assert till.paid == [400]


async def test_changed_arguments_that_do_not_fit_run_nothing_and_leave_nothing_unknown() -> None:
    till, played = shop(500)
    await played.say("pay")
    await grant(played, {"amount": "all"})
    assert till.paid == []
    assert len(await played.happened(ToolFailed)) == 1


async def test_a_denial_is_the_calls_outcome() -> None:
    till, played = shop(500)
    await played.say("pay")
    call = await open_call(played)
    await act(played, DecideApproval(call.version, call.hash, "deny", told="Not today."))
    assert till.paid == []
    assert played.script.asked[-1].messages[-1].content == "Not today."


async def test_a_grant_outlives_the_process_that_ran_the_call_then() -> None:
    till, played = shop(500)
    await played.say("pay")
    till.hang = True
    call = await open_call(played)
    decision = DecideApproval(call.version, call.hash, "grant")
    running = asyncio.create_task(act(played, decision))
    await till.hanging.wait()
    await played.turns.services.repository.load(played.thread_id)
    while len(await played.happened(ToolStarted)) < 2:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    till.hang = False
    played.forget_hot()
    async with played.worker().working():
        await played.settled()
    assert till.paid == [500]
    assert [e.attempt for e in await played.happened(ToolStarted) if isinstance(e, ToolStarted)] == [1, 2, 3]
    assert len(await played.happened(ApprovalRequested)) == 1


async def test_a_call_that_asks_again_after_a_crash_is_asked_about_once() -> None:
    till, played = shop(500)
    begun = await played.begin("pay")
    await played.turns.run(begun.loaded, Metadata())
    played.forget_hot()
    async with played.worker().working():
        await asyncio.sleep(0.01)
        assert played.turns.running() == {}
    await grant(played)
    assert till.paid == [500]
    assert len(await played.happened(ApprovalRequested)) == 1


async def test_a_cancelled_call_that_waited_was_not_run() -> None:
    till, played = shop(500, used=pay_once)
    await played.say("pay")
    state = (await played.repository.load(played.thread_id)).state
    assert isinstance(state, Running)
    await act(played, CancelTurn(TurnId(state.turn.turn_id)))
    (failed,) = await played.happened(ToolFailed, ToolOutcomeUnknown)
    assert isinstance(failed, ToolFailed)
    assert failed.error == CALL_NOT_RUN
    assert len(await played.happened(TurnCancelled)) == 1
    assert till.paid == []


async def test_a_call_that_a_person_approved_by_rule_may_still_ask() -> None:
    @tool(name="pay", approval=True)
    async def ruled(amount: int, context: ToolContext[Till]) -> str:
        """Pay."""
        context.require_approval(WHY)
        context.deps.paid.append(amount)
        return f"paid {amount}"

    till, played = shop(500, used=ruled)
    await played.say("pay")
    assert (await open_call(played)).reason == ""
    await grant(played)
    assert till.paid == []
    assert (await open_call(played)).reason == WHY
    await grant(played)
    assert till.paid == [500]
