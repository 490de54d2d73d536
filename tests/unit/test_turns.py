"""Turns run node after node; tools answer to the model; failures are told, retried and bounded."""

import asyncio
from collections.abc import Sequence

import pytest

from domain.agent import Agent, TurnContext
from domain.application.assistant import assistant
from domain.application.execute import Request, execute
from domain.application.recover import recover
from domain.application.signals import Delta, Withdrawn
from domain.application.verify import verify_thread
from domain.application.work import RESULT_LIMIT
from domain.chat import AnswerCut, ModelRefused
from domain.codec import Metadata, Recorded
from domain.commands import StartCalls, UpdateValues
from domain.errors import StoreUnavailable, ToolError
from domain.events import (
    ContextAssembled,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeFact,
    NodeFailed,
    StateUpdated,
    ThreadOpened,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from domain.graph import END, Branch, Graph, Node, Retry
from domain.ids import Position
from domain.ports import Append
from domain.state import Idle, Running
from domain.tools import Tool, ToolContext, tool
from infrastructure.memory.event_store import MemoryEventStore
from tests.support.runtime import Stage, calls, says, stage


@tool(idempotent=True)
async def double(number: int) -> int:
    """Double a number."""
    if number > 1_000:
        raise ToolError("That is too much.")
    return number * 2


def one_node(run: object, *, retry: Retry | None = None, timeout: float = 5, tools: Sequence[Tool] = ()) -> Agent:
    node = Node("only", run, timeout=timeout, retry=retry or Retry())  # type: ignore[arg-type]
    return Agent(Graph("solo", "only", [node], {"only": END}), tools=tools)


async def test_an_answer_is_a_series_of_facts() -> None:
    played = stage(assistant(tools=[double]), says("Hi!"))
    loaded = await played.say("hello you")
    assert [type(event) for event in await played.events()] == [
        ThreadOpened,
        TurnStarted,
        MessageAppended,
        NodeCompleted,
        ContextAssembled,
        ModelCalled,
        MessageAppended,
        NodeCompleted,
        NodeCompleted,
        TurnCompleted,
    ]
    assert isinstance(loaded.state, Idle)
    assert (await verify_thread(played.store, played.thread_id)).problems == ()


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


async def test_a_slow_tool_fails_alone() -> None:
    @tool(timeout=0.05)
    async def sleepy() -> str:
        """Sleep."""
        await asyncio.sleep(60)
        return "never"

    asked = calls(("sleepy", {}), ("double", {"number": 1}))
    played = stage(assistant(tools=[sleepy, double]), asked, says("ok"))
    await played.say("sleep")
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "sleepy did not answer within 0.05 s"
    assert await played.happened(ToolSucceeded, TurnCompleted)


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
        return "x" * (RESULT_LIMIT + 1)

    played = stage(assistant(tools=[endless]), calls(("endless", {})), says("long"))
    await played.say("talk")
    (success,) = await played.happened(ToolSucceeded)
    assert isinstance(success, ToolSucceeded)
    assert len(success.content) == RESULT_LIMIT


async def test_a_passing_failure_of_the_model_is_tried_again() -> None:
    agent = one_node(lambda turn: turn.generate(), retry=Retry(attempts=3, first_delay=0.01))
    played = stage(agent, AnswerCut(), AnswerCut(), says("at last"))
    await played.say("hello")
    failed = [event for event in await played.happened(NodeFailed) if isinstance(event, NodeFailed)]
    assert [(event.attempt, event.retry_in_ms) for event in failed] == [(1, 10), (2, 20)]
    assert {event.error for event in failed} == {"AnswerCut: The model's answer ended before it was complete."}
    (completed,) = await played.happened(NodeCompleted)
    assert isinstance(completed, NodeCompleted)
    assert completed.attempt == 3


async def test_a_lasting_failure_of_the_model_ends_the_turn_at_once() -> None:
    played = stage(assistant(), ModelRefused())
    loaded = await played.say("hello")
    assert isinstance(loaded.state, Idle)
    assert loaded.state.thread.last_turn is not None
    assert loaded.state.thread.last_turn.reason == "node_failed"
    assert "LLM_API_KEY" in (loaded.state.thread.last_turn.detail or "")
    assert len(played.script.asked) == 1


async def test_a_thread_goes_on_after_a_failed_turn() -> None:
    played = stage(assistant(), ModelRefused(), says("back again"))
    await played.say("hello")
    await played.say("and now?")
    assert len(await played.happened(TurnFailed)) == 1
    assert len(await played.happened(TurnCompleted)) == 1


async def test_a_node_that_hangs_or_breaks_fails_the_turn() -> None:
    async def hang(_: TurnContext) -> Sequence[NodeFact]:
        await asyncio.sleep(60)
        return ()

    async def lie(turn: TurnContext) -> Sequence[NodeFact]:
        return (turn.update(bad=float("nan")),)

    for run, error in ((hang, "NodeTimeout: did not end within 0.05 s"), (lie, "InvalidInput: facts.0.bad")):
        played = stage(one_node(run, timeout=0.05))
        await played.say("go")
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert failed.detail.startswith(f"only: {error}")


async def test_an_endless_tool_loop_ends_at_the_step_limit() -> None:
    played = stage(assistant(tools=[double]), *[calls(("double", {"number": 1}))] * 40)
    await played.say("double for ever")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.reason == "step_limit"
    assert len(await played.happened(NodeCompleted)) == 50
    requested, answered = await played.happened(ToolRequested), await played.happened(ToolSucceeded, ToolFailed)
    assert len(requested) == len(answered)


async def test_a_node_that_is_gone_fails_the_turn_clearly() -> None:
    played = stage(assistant(), says("hi"))
    outcome = await played.begin("hello")
    played.turns.agents = {"other": played.agent}
    await played.turns.run(outcome.loaded, Metadata())
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert (failed.reason, failed.detail) == (
        "graph_changed",
        "The graph 'assistant' has no node 'route_intent' any more.",
    )


async def test_a_command_that_comes_between_does_not_stop_the_turn() -> None:
    async def meanwhile(turn: TurnContext) -> Sequence[NodeFact]:
        await execute(played.journal, Request(turn.thread_id, lambda _: (UpdateValues({"seen": 1}),)))
        return (turn.say("noted"),)

    played = stage(one_node(meanwhile))
    loaded = await played.say("go")
    assert [type(e) for e in (await played.events())[3:]] == [
        StateUpdated,
        MessageAppended,
        NodeCompleted,
        TurnCompleted,
    ]
    assert isinstance(loaded.state, Idle)
    assert loaded.state.thread.values == {"seen": 1}


async def test_a_full_window_is_compacted_and_the_log_keeps_everything() -> None:
    long = "word " * 120
    played = stage(assistant(instructions=""), *[says(long)] * 12, context_window=1_000)
    for _ in range(12):
        await played.say(long)
    compacted = await played.happened(HistoryCompacted)
    assert compacted
    assert len(await played.happened(MessageAppended)) == 24
    prompts = [event.tokens for event in await played.happened(ContextAssembled) if isinstance(event, ContextAssembled)]
    assert max(prompts) <= 850
    instructions = played.script.asked[-1].messages[0].content
    assert instructions is not None
    assert instructions.startswith("Earlier in this conversation:\nassistant: word")


async def test_watchers_see_deltas_then_events_and_learn_when_an_attempt_came_to_nothing() -> None:
    agent = one_node(lambda turn: turn.generate(), retry=Retry(attempts=2, first_delay=0))
    played = stage(agent, AnswerCut(), says("hello"))
    outcome = await played.begin("hi")
    with played.turns.means.signals.watch(played.thread_id) as queue:
        await played.turns.run(outcome.loaded, Metadata())
        seen = [queue.get_nowait() for _ in range(queue.qsize())]
    shown = [signal if not isinstance(signal, Recorded) else type(signal.event) for signal in seen]
    assert shown[:3] == [Withdrawn(), NodeFailed, Delta("hello")]
    assert shown[3:] == [ContextAssembled, ModelCalled, MessageAppended, NodeCompleted, TurnCompleted]


async def lost_in_a_tool(tools: Sequence[Tool]) -> Stage:
    """A turn whose process died right after its tool was started."""
    played = stage(assistant(tools=tools), calls(("act", {})), says("I see"))
    outcome = await played.begin("act")
    state, loaded = outcome.loaded.state, outcome.loaded
    while isinstance(state, Running) and not state.turn.calls:
        loaded = await played.turns._step(loaded, state, Metadata())
        state = loaded.state
    assert isinstance(state, Running)
    started = StartCalls(outcome.loaded.state.turn.turn_id, (state.turn.calls[0].version,))  # type: ignore[union-attr, arg-type]
    await execute(played.journal, Request(played.thread_id, lambda _: (started,)))
    return played


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_lost_turn_goes_on_and_runs_a_started_tool_again_only_if_that_is_harmless(idempotent: bool) -> None:  # noqa: FBT001
    runs: list[str] = []

    @tool(idempotent=idempotent)
    async def act(call: ToolContext) -> str:
        """Act."""
        runs.append(call.idempotency_key)
        return "acted"

    played = await lost_in_a_tool([act])
    assert await recover(played.turns, played.clock) == 0, "not before the node's time is over"
    played.clock.pass_(310)
    assert await recover(played.turns, played.clock) == 1
    await played.turns.wait(played.thread_id)
    assert len(runs) == (1 if idempotent else 0)
    assert len(await played.happened(ToolSucceeded)) == len(runs)
    assert len(await played.happened(ToolOutcomeUnknown)) == 1 - len(runs)
    assert len(await played.happened(ToolStarted)) == 1
    assert await played.happened(TurnCompleted)


class Flaky(MemoryEventStore):
    """A store that is away for a while."""

    away = False

    async def append(self, append: Append) -> Position:
        if self.away:
            raise StoreUnavailable
        return await super().append(append)


async def test_a_store_that_is_away_stops_the_turn_and_does_not_fail_it() -> None:
    store, runs = Flaky(), list[str]()

    @tool(idempotent=True)
    async def act() -> str:
        """Act while the store goes away."""
        store.away = not runs
        runs.append("run")
        return "acted"

    played = stage(assistant(tools=[act]), calls(("act", {})), says("done"), store=store)
    with pytest.raises(StoreUnavailable):
        await played.say("act")
    assert not await played.happened(TurnFailed, NodeFailed)
    store.away = False
    await played.turns.run(await played.journal.load(played.thread_id), Metadata())
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 2


async def test_a_slash_command_runs_a_tool_without_asking_the_model_first() -> None:
    played = stage(assistant(tools=[double], slash_commands=True), says("It is 42."))
    await played.say("/double 21")
    assert len(played.script.asked) == 1
    played.script.lines.append(says("44"))
    await played.say('/double {"number": 22}')
    results = [event.content for event in await played.happened(ToolSucceeded) if isinstance(event, ToolSucceeded)]
    assert results == ["42", "44"]


async def test_branches_choose_by_the_state_after_the_node() -> None:
    async def note(turn: TurnContext) -> Sequence[NodeFact]:
        return (turn.update(mood=turn.user_input),)

    async def cheer(turn: TurnContext) -> Sequence[NodeFact]:
        return (turn.say("hooray"),)

    edges: dict[str, str | Branch] = {
        "note": Branch(lambda state: state.thread.values["mood"], {"happy": "cheer", "sad": END}),
        "cheer": END,
    }
    agent = Agent(Graph("moods", "note", [Node("note", note), Node("cheer", cheer)], edges))
    played = stage(agent)
    await played.say("happy")
    await played.say("sad")
    await played.say("angry")
    said = [event.content for event in await played.happened(MessageAppended) if isinstance(event, MessageAppended)]
    assert said == ["happy", "hooray", "sad", "angry"]
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "chose 'angry', but has only happy, sad" in failed.detail


async def test_who_was_alone_need_not_wait_for_the_dead() -> None:
    @tool
    async def act() -> str:
        """Act."""
        return "acted"

    played = await lost_in_a_tool([act])
    assert await recover(played.turns, played.clock, lost_before=played.clock.now()) == 0, "it is as new as we are"
    played.clock.pass_(1)
    assert await recover(played.turns, played.clock, lost_before=played.clock.now()) == 1
    await played.turns.wait(played.thread_id)
    assert await played.happened(TurnCompleted)
