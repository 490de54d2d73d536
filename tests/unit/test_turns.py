"""Turns run node after node; failures are told, retried and bounded; the live window stays small."""

import asyncio
from collections.abc import Sequence

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import assistant, finalize_turn
from domain.agents.graph import Branch, Graph, Node, RetryPolicy
from domain.application.audit.verify import verify_thread
from domain.application.command_handler import CommandRequest, execute
from domain.ids import Version
from domain.models.chat import AnswerCut, ModelRefused
from domain.ports.wakeups import Delta, Withdrawn
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import UpdateValues
from domain.thread.events import (
    END,
    ContextAssembled,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeEvent,
    NodeFailed,
    StateUpdated,
    ThreadOpened,
    ToolFailed,
    ToolRequested,
    ToolSucceeded,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from domain.thread.state import Idle
from tests.support.runtime import calls, double, one_node, says, stage
from tests.support.spending import ask


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


async def test_a_node_cannot_change_the_state_behind_the_logs_back() -> None:
    async def sly(turn: TurnContext) -> Sequence[NodeEvent]:
        turn.state.thread.values["stolen"] = True
        shared = {"list": [1]}
        facts = (turn.update(kept=shared),)
        asyncio.get_running_loop().call_soon(shared["list"].append, 2)
        return facts

    played = stage(one_node(sly))
    loaded = await played.say("go")
    await asyncio.sleep(0)
    played.forget(played.thread_id)
    folded = await played.repository.load(played.thread_id)
    assert folded.state == loaded.state
    assert folded.state.thread.values == {"kept": {"list": [1]}}  # type: ignore[union-attr]


async def test_a_passing_failure_of_the_model_is_tried_again() -> None:
    agent = one_node(ask, retry=RetryPolicy(attempts=3, first_delay=0.01))
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
    async def hang(_: TurnContext) -> Sequence[NodeEvent]:
        await asyncio.sleep(60)
        return ()

    async def lie(turn: TurnContext) -> Sequence[NodeEvent]:
        return (turn.update(bad=float("nan")),)

    for run, error in ((hang, "NodeTimeout: did not end within 0.05 s"), (lie, "InvalidInput: facts.0.changes.bad")):
        played = stage(one_node(run, timeout=0.05))
        await played.say("go")
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert failed.detail.startswith(f"only: {error}")


async def test_an_endless_tool_loop_ends_at_the_step_limit() -> None:
    agent = assistant(tools=[double], step_limit=50, repeat_limit=None)
    played = stage(agent, *[calls(("double", {"number": 1}))] * 40)
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
    graph = Graph("assistant", "other", [Node("other", finalize_turn)], {"other": END})
    played.turns.agents = {"assistant": Agent(graph)}
    await played.turns.run(outcome.loaded, Metadata())
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.reason == "graph_changed"
    assert failed.detail == (
        "The graph 'assistant' has no node 'route_intent' any more. If the node was renamed, give it "
        "aliases=('route_intent',); otherwise list the agent's earlier version in AGENTS as well."
    )


async def test_many_commands_at_once_are_all_carried_out_and_hurt_no_turn() -> None:
    played = stage(assistant(tools=[double]), calls(("double", {"number": 2})), says("4"))
    outcome = await played.begin("double two")
    changes = [CommandRequest(played.thread_id, lambda _, n=n: (UpdateValues({str(n): n}),)) for n in range(60)]  # type: ignore[misc]
    await asyncio.gather(
        *(execute(played.repository, change) for change in changes), played.turns.run(outcome.loaded, Metadata())
    )
    assert len(await played.happened(StateUpdated)) == 60
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 2


async def test_a_graph_that_never_compacts_is_compacted_when_a_turn_begins() -> None:
    async def echo(turn: TurnContext) -> Sequence[NodeEvent]:
        return (turn.say("word " * 100),)

    played = stage(one_node(echo), context_window=1_000)
    for _ in range(30):
        loaded = await played.say("word " * 100)
    assert isinstance(loaded.state, Idle)
    assert sum(message.tokens for message in loaded.state.thread.window) < 1_300
    assert await played.happened(HistoryCompacted)
    assert len(await played.happened(MessageAppended)) == 60


async def test_a_command_that_comes_between_does_not_stop_the_turn() -> None:
    async def meanwhile(turn: TurnContext) -> Sequence[NodeEvent]:
        await execute(played.repository, CommandRequest(turn.thread_id, lambda _: (UpdateValues({"seen": 1}),)))
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


async def test_watchers_see_deltas_then_events_and_learn_when_an_attempt_came_to_nothing() -> None:
    async def stumble(turn: TurnContext) -> Sequence[NodeEvent]:
        events = await turn.generate()
        if turn.state.turn.attempt == 1:
            raise ValueError("once")
        return events

    played = stage(one_node(stumble, retry=RetryPolicy(attempts=2, first_delay=0)), says("hel"), says("hello"))
    outcome = await played.begin("hi")
    with played.turns.services.broadcast.watch(played.thread_id) as watcher:
        await played.turns.run(outcome.loaded, Metadata())
        seen = [await watcher.hear() for _ in range(9)]
    shown = [signal if not isinstance(signal, Recorded) else type(signal.event) for signal in seen]
    assert shown[:2] == [Delta(played.thread_id, Version(3), 0, "hel"), Withdrawn(played.thread_id, Version(3))]
    assert shown[2:5] == [ModelCalled, NodeFailed, Delta(played.thread_id, Version(5), 0, "hello")]
    assert shown[5:] == [ContextAssembled, ModelCalled, MessageAppended, NodeCompleted]


async def test_branches_choose_by_the_state_after_the_node() -> None:
    async def note(turn: TurnContext) -> Sequence[NodeEvent]:
        return (turn.update(mood=turn.user_input),)

    async def cheer(turn: TurnContext) -> Sequence[NodeEvent]:
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
    assert "chose 'angry'; its labels are happy, sad" in failed.detail
