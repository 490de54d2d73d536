"""Tools and nodes that wait for a person."""

import asyncio
import sys
from collections.abc import Sequence

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node
from domain.agents.tools import Tool, ToolContext, tool
from domain.application.command_handler import CommandRequest, CommandResult, execute
from domain.errors import ApprovalChanged, InvalidInput, ThreadBusy, UnknownApproval
from domain.ids import TurnId, Version
from domain.models.chat import ToolSpec
from domain.thread.approvals import hash_of_call
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, DecideApproval, StartTurn
from domain.thread.events import (
    END,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    MessageAppended,
    NodeEvent,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
)
from domain.thread.state import Running
from tests.support.given import OTHER_TURN
from tests.support.runtime import Stage, calls, says, stage

PAID: list[tuple[str, int]] = []


@tool(approval=lambda arguments: arguments["amount"] > 100)
async def pay(to: str, amount: int) -> str:
    """Pay an account."""
    PAID.append((to, amount))
    return f"paid {amount}"


@tool(approval=True)
async def always(amount: int) -> str:
    """Do something that a person has to approve."""
    return f"did {amount}"


@pytest.fixture(autouse=True)
def _nobody_was_paid() -> None:
    PAID.clear()


async def waiting(*tools: Tool, request: dict[str, object]) -> Stage:
    played = stage(assistant(tools=tools), calls(("pay", request)), says("done"))
    loaded = await played.say("pay")
    assert loaded.state.waiting
    assert not loaded.state.in_turn
    return played


async def the_call(played: Stage) -> tuple[Version, str]:
    state = (await played.repository.load(played.thread_id)).state
    assert isinstance(state, Running)
    (call,) = state.turn.calls
    return call.version, call.hash


async def decide(played: Stage, decision: DecideApproval | CancelTurn | StartTurn) -> CommandResult:
    return await execute(played.repository, CommandRequest(played.thread_id, lambda _: (decision,)))


BIG = {"to": "Ann", "amount": 500}


async def test_a_small_payment_needs_no_approval() -> None:
    played = stage(assistant(tools=[pay]), calls(("pay", {"to": "Ann", "amount": 5})), says("done"))
    await played.say("pay")
    assert PAID == [("Ann", 5)]
    assert not await played.happened(ApprovalRequested)


async def test_a_big_one_waits_and_runs_once_it_is_granted() -> None:
    played = await waiting(pay, request=BIG)
    version, shown = await the_call(played)
    assert shown == hash_of_call("pay", BIG)
    assert (PAID, played.turns.runs(played.thread_id)) == ([], None)
    granted = await decide(played, DecideApproval(version, shown, decision="grant"))
    await played.turns.run(granted.loaded, Metadata())
    assert PAID == [("Ann", 500)]
    kinds = [type(e) for e in await played.happened(ApprovalRequested, ApprovalGranted, ToolStarted, TurnCompleted)]
    assert kinds == [ApprovalRequested, ApprovalGranted, ToolStarted, TurnCompleted]


async def test_a_person_may_change_the_arguments_and_the_model_sees_them() -> None:
    played = await waiting(pay, request=BIG)
    version, shown = await the_call(played)
    granted = await decide(
        played, DecideApproval(version, shown, decision="grant", arguments={"to": "Bob", "amount": 200})
    )
    await played.turns.run(granted.loaded, Metadata())
    assert PAID == [("Bob", 200)]
    (asking,) = [m for m in played.script.asked[-1].messages if m.tool_calls]
    assert asking.tool_calls[0].arguments == {"to": "Bob", "amount": 200}


async def test_a_refusal_is_told_to_the_model() -> None:
    played = await waiting(pay, request=BIG)
    version, shown = await the_call(played)
    denied = await decide(played, DecideApproval(version, shown, decision="deny", told="Not today.", tokens=2))
    await played.turns.run(denied.loaded, Metadata())
    assert PAID == []
    assert await played.happened(ApprovalDenied, TurnCompleted)
    assert played.script.asked[-1].messages[-1].content == "Not today."


async def test_a_decision_is_about_what_was_shown() -> None:
    played = await waiting(pay, request=BIG)
    version, shown = await the_call(played)
    with pytest.raises(ApprovalChanged):
        await decide(played, DecideApproval(version, "0" * 16, decision="grant"))
    with pytest.raises(UnknownApproval):
        await decide(played, DecideApproval(Version(version + 1), shown, decision="grant"))
    await decide(played, DecideApproval(version, shown, decision="grant"))
    with pytest.raises(UnknownApproval):
        await decide(played, DecideApproval(version, shown, decision="grant"))
    assert len(await played.happened(ApprovalGranted)) == 1


async def test_calls_without_approval_do_not_wait_for_those_that_need_it() -> None:
    played = stage(assistant(tools=[pay]), calls(("pay", {"to": "Ann", "amount": 5}), ("pay", BIG)), says("done"))
    assert (await played.say("pay both")).state.waiting
    assert PAID == [("Ann", 5)]
    version, shown = await the_call(played)
    granted = await decide(played, DecideApproval(version, shown, decision="grant"))
    await played.turns.run(granted.loaded, Metadata())
    assert PAID == [("Ann", 5), ("Ann", 500)]
    assert len(await played.happened(ToolSucceeded)) == 2


async def test_what_cannot_be_judged_is_asked_about() -> None:
    @tool(name="pay", approval=lambda arguments: arguments["limit"] > 100)
    async def hasty(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    played = await waiting(hasty, request={"amount": 5})
    assert await played.happened(ApprovalRequested)


async def test_no_person_is_asked_about_arguments_that_do_not_fit() -> None:
    bad: dict[str, object] = {"to": "Ann", "amount": "many", "when": "now"}
    played = stage(assistant(tools=[pay, always]), calls(("pay", bad), ("always", {}), ("pay", BIG)), says("done"))
    assert (await played.say("pay")).state.waiting
    failed = [event.error for event in await played.happened(ToolFailed) if isinstance(event, ToolFailed)]
    assert len(failed) == 2
    assert failed[0].startswith("pay cannot be called like this: amount: Input should be a valid integer")
    assert failed[1] == "always cannot be called like this: amount: Field required"
    assert len(await played.happened(ApprovalRequested)) == 1
    assert not await played.happened(ToolStarted)
    version, shown = await the_call(played)
    granted = await decide(played, DecideApproval(version, shown, decision="grant"))
    await played.turns.run(granted.loaded, Metadata())
    assert PAID == [("Ann", 500)]


async def test_a_slash_command_that_does_not_fit_is_not_asked_about() -> None:
    played = stage(assistant(tools=[always], slash_commands=True), says("sorry"))
    await played.say('/always {"amount": "many"}')
    assert len(await played.happened(ToolFailed, TurnCompleted)) == 2
    assert not await played.happened(ApprovalRequested, ToolStarted)


async def test_a_nodes_own_request_that_does_not_fit_is_not_asked_about() -> None:
    async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
        return turn.request("always", amount="many")

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.run_tools()
        return []

    graph = Graph("own", "ask", [Node("ask", ask), Node("run", run)], {"ask": "run", "run": END})
    played = stage(Agent(graph, tools=[always]))
    await played.say("go")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error.startswith("always cannot be called like this: amount: ")
    assert not await played.happened(ApprovalRequested, ToolStarted)


async def test_a_check_that_breaks_fails_the_call() -> None:
    def check(arguments: dict[str, object]) -> None:
        if arguments != {"a": 1}:
            sys.exit("no")

    async def run(arguments: dict[str, object], _: ToolContext) -> str:
        return str(arguments)

    odd = Tool(ToolSpec("odd", "Be odd.", {"type": "object"}), run, approval=True, check=check)
    played = stage(assistant(tools=[odd]), calls(("odd", {"a": 2}), ("odd", {"a": 1})), says("ok"))
    assert (await played.say("go")).state.waiting
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "SystemExit: no: the code tried to end the process"


async def test_arguments_that_a_person_changed_are_checked_before_the_tool_runs() -> None:
    """The process that decided may not have had the tool."""
    played = await waiting(pay, request=BIG)
    version, shown = await the_call(played)
    changed = {"to": "Bob", "amount": "all"}
    granted = await decide(played, DecideApproval(version, shown, decision="grant", arguments=changed))
    await played.turns.run(granted.loaded, Metadata())
    assert PAID == []
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error.startswith("pay cannot be called like this: amount: Input should be a valid integer")


async def test_a_call_that_ran_with_another_version_of_its_tool_may_have_had_its_effect() -> None:
    died = asyncio.Event()

    @tool(name="pay", idempotent=True)
    async def old(to: str) -> str:
        """Pay, and never answer."""
        died.set()
        await asyncio.sleep(60)
        return to

    @tool(name="pay", idempotent=True)
    async def new(account: str) -> str:
        """Pay."""
        return account

    played = stage(assistant(tools=[old]), calls(("pay", {"to": "Ann"})), says("done"))
    begun = await played.begin("pay")
    running = asyncio.create_task(played.turns.run(begun.loaded, Metadata()))
    await died.wait()
    await played.saved(ToolStarted)
    running.cancel()
    await asyncio.wait([running])
    played.turns.agents = {"assistant": assistant(tools=[new])}
    played.forget_hot()
    async with played.worker().working():
        await played.settled()
    (lost,) = await played.happened(ToolFailed, ToolOutcomeUnknown)
    assert isinstance(lost, ToolOutcomeUnknown)
    assert lost.error.startswith("pay cannot be called like this: account: Field required; to: Extra inputs")
    assert lost.error.endswith("An earlier attempt of this call was interrupted. It may have had its effect.")


async def test_a_waiting_turn_is_cancelled_at_once() -> None:
    played = await waiting(pay, request=BIG)
    state = (await played.repository.load(played.thread_id)).state
    assert isinstance(state, Running)
    ended = await decide(played, CancelTurn(TurnId(state.turn.turn_id)))
    assert not isinstance(ended.loaded.state, Running)
    assert len(await played.happened(TurnCancelled)) == 1
    assert PAID == []


async def test_a_message_meanwhile_waits_or_takes_the_turns_place() -> None:
    played = await waiting(pay, request=BIG)
    message = StartTurn(OTHER_TURN, "stop", 1, "route_intent", played.agent.graph.fingerprint)
    with pytest.raises(ThreadBusy):
        await decide(played, message)
    interrupting = StartTurn(OTHER_TURN, "stop", 1, "route_intent", message.graph, strategy="interrupt")
    outcome = await decide(played, interrupting)
    state = outcome.loaded.state
    assert isinstance(state, Running)
    assert state.turn.turn_id == OTHER_TURN
    await played.turns.run(outcome.loaded, Metadata())
    assert len(await played.happened(TurnCancelled, TurnCompleted)) == 2


async def publish(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("published")]


def publisher() -> Agent:
    return Agent(Graph("publisher", "publish", [Node("publish", publish, approval=True)], {"publish": END}))


@pytest.mark.parametrize("granted", [True, False])
async def test_a_node_may_wait_as_well(granted: bool) -> None:  # noqa: FBT001
    played = stage(publisher())
    loaded = await played.say("go")
    assert loaded.state.waiting
    assert isinstance(loaded.state, Running)
    approval = loaded.state.turn.approval
    assert approval is not None
    with pytest.raises(InvalidInput, match="arguments"):
        await decide(played, DecideApproval(approval.version, approval.hash, decision="grant", arguments={}))
    decided = await decide(
        played, DecideApproval(approval.version, approval.hash, decision="grant" if granted else "deny", told="No.")
    )
    await played.turns.run(decided.loaded, Metadata())
    said = [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
    assert said == (["go", "published"] if granted else ["go"])
    assert len(await played.happened(TurnCompleted if granted else TurnFailed)) == 1


async def test_waiting_holds_no_task_and_outlives_its_process() -> None:
    played = await waiting(pay, request=BIG)
    async with played.worker().working():
        await asyncio.sleep(0.01)
        assert played.turns.running() == {}
    played.forget(played.thread_id)
    version, shown = await the_call(played)
    await decide(played, DecideApproval(version, shown, decision="grant"))
    async with played.worker().working():
        await played.settled()
    assert PAID == [("Ann", 500)]
