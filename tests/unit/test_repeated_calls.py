"""A turn may take many steps as long as it makes progress; a model that repeats calls is warned, then stopped."""

from uuid import uuid4

from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.agents.assistant import assistant
from domain.agents.graph import REPEAT_LIMIT, STEP_LIMIT
from domain.agents.tools import tool
from domain.application.command_handler import CommandRequest, execute
from domain.ids import TurnId
from domain.models.chat import ToolCall
from domain.thread.codec import Metadata
from domain.thread.commands import RetryTurn
from domain.thread.events import NodeCompleted, ToolFailed, ToolSucceeded, TurnCompleted, TurnFailed, TurnStarted
from domain.thread.repeated_calls import (
    MAX_REMEMBERED_CALLS,
    Repeat,
    digest_of,
    most_repeated,
    repeated,
    with_note,
    without_note,
)
from tests.support.runtime import Stage, calls, double, says, stage


async def reasons(played: Stage) -> list[str]:
    return [event.reason for event in await played.happened(TurnFailed) if isinstance(event, TurnFailed)]


async def told(played: Stage) -> list[str]:
    return [event.content for event in await played.happened(ToolSucceeded) if isinstance(event, ToolSucceeded)]


async def test_a_turn_may_take_as_many_different_calls_as_it_needs() -> None:
    script = [calls(("double", {"number": number})) for number in range(60)]
    played = stage(assistant(tools=[double]), *script, says("done"))
    await played.say("double them all")
    assert await played.happened(TurnCompleted)
    assert await told(played) == [str(2 * number) for number in range(60)]


async def test_a_model_that_repeats_itself_is_told_and_then_stopped() -> None:
    played = stage(assistant(tools=[double]), *[calls(("double", {"number": 1}))] * 40)
    await played.say("double for ever")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.reason == "repeated_calls"
    assert failed.detail.startswith("The model asked 20 times for 'double' with the same arguments, and got the same")
    results = await told(played)
    assert results[:4] == ["2"] * 4
    assert results[4:7] == [
        f"2\n\n[This is the {nth} identical call in this turn with the same result.]" for nth in ("5th", "6th", "7th")
    ]
    assert len(results) == len(played.script.asked) == 20
    assert played.script.asked[5].messages[-1].content == results[4]


async def test_failures_that_repeat_themselves_count_as_well() -> None:
    played = stage(assistant(tools=[double], repeat_limit=4), *[calls(("double", {"number": 5_000}))] * 40)
    await played.say("double too much")
    assert await reasons(played) == ["repeated_calls"]
    errors = [event.error for event in await played.happened(ToolFailed) if isinstance(event, ToolFailed)]
    assert errors[0] == "That is too much."
    assert errors[1] == "That is too much.\n\n[This is the 2nd identical call in this turn with the same result.]"
    assert len(errors) == 4


async def test_a_model_that_asks_for_a_few_things_in_turns_is_stopped_as_well() -> None:
    script = [calls(("double", {"number": number % 3})) for number in range(200)]
    played = stage(assistant(tools=[double]), *script)
    await played.say("round and round")
    assert await reasons(played) == ["repeated_calls"]
    assert len(played.script.asked) == 3 * (REPEAT_LIMIT - 1) + 1


async def test_many_identical_calls_of_one_message_are_one() -> None:
    one: tuple[str, dict[str, object]] = ("double", {"number": 1})
    several = calls(*[one] * (2 * REPEAT_LIMIT))
    played = stage(assistant(tools=[double]), several, says("done"))
    await played.say("double it often")
    assert await played.happened(TurnCompleted)


async def test_polling_is_no_loop_where_the_result_changes() -> None:
    progress = iter(range(100))

    @tool(idempotent=True)
    async def status() -> str:
        """Say how far it is."""
        return f"{next(progress)} %"

    played = stage(assistant(tools=[status]), *[calls(("status", {}))] * 60, says("done"))
    await played.say("wait for it")
    assert await played.happened(TurnCompleted)


async def test_what_brings_something_new_starts_the_count_again() -> None:
    script = [calls(("double", {"number": 0 if at % 2 else at + 1})) for at in range(80)]
    played = stage(assistant(tools=[double]), *script, says("done"))
    await played.say("look at the first one each time")
    assert await played.happened(TurnCompleted)


async def test_without_a_limit_the_steps_are_one() -> None:
    agent = assistant(tools=[double], step_limit=100, repeat_limit=None)
    played = stage(agent, *[calls(("double", {"number": 1}))] * 60)
    await played.say("double for ever")
    assert await reasons(played) == ["step_limit"]
    assert len(await played.happened(NodeCompleted)) == 100
    assert set(await told(played)) == {"2"}


async def test_a_retry_has_a_fresh_allowance() -> None:
    agent = assistant(tools=[double], step_limit=6)
    played = stage(agent, *[calls(("double", {"number": number})) for number in range(6)], says("done"))
    loaded = await played.say("double six")
    for _ in range(10):
        started = [event for event in await played.happened(TurnStarted) if isinstance(event, TurnStarted)]
        if await played.happened(TurnCompleted):
            break
        retry = RetryTurn(TurnId(started[-1].turn_id), TurnId(uuid4()), agent.graph.fingerprint)
        outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _, retry=retry: (retry,)))  # type: ignore[misc]
        loaded = await played.turns.run(outcome.loaded, Metadata())
    assert not loaded.state.in_turn
    assert await reasons(played) == ["step_limit"] * 2
    assert len(played.script.asked) == 7


async def test_a_retry_after_a_loop_goes_on() -> None:
    agent = assistant(tools=[double], repeat_limit=3)
    played = stage(agent, *[calls(("double", {"number": 1}))] * 3, says("done"))
    await played.say("double")
    (started,) = await played.happened(TurnStarted)
    assert isinstance(started, TurnStarted)
    retry = RetryTurn(TurnId(started.turn_id), TurnId(uuid4()), agent.graph.fingerprint)
    outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (retry,)))
    await played.turns.run(outcome.loaded, Metadata())
    assert await played.happened(TurnCompleted)


def test_the_limits_are_far_from_real_work() -> None:
    assert assistant().graph.step_limit == STEP_LIMIT == 1_000
    assert assistant(step_limit=7, repeat_limit=None).graph.repeat_limit is None


def test_the_order_of_arguments_makes_no_difference() -> None:
    one, other = ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of(ToolCall("1", "t", one), "x") == digest_of(ToolCall("2", "t", other), "x")
    assert digest_of(ToolCall("1", "t", one), "x") != digest_of(ToolCall("1", "t", one), "y")


@for_all(st.text(), st.integers(1, 1_000))
def test_a_note_does_not_change_what_is_counted(text: str, count: int) -> None:
    noted = with_note(text, count)
    assert noted.startswith(without_note(text))
    assert without_note(noted) == without_note(text)
    assert with_note(noted, count + 1) == with_note(text, count + 1)
    call = ToolCall("1", "t", {})
    assert digest_of(call, noted) == digest_of(call, text)


@for_all(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(0, 2))))
def test_few_calls_are_remembered_and_none_counts_more_often_than_it_was_made(made: list[tuple[str, int]]) -> None:
    repeats: tuple[Repeat, ...] = ()
    step = 0
    for digest, later in made:
        step += later
        repeats = repeated(repeats, digest, step)
        assert repeats[-1].digest == digest
    assert len(repeats) <= MAX_REMEMBERED_CALLS
    for repeat in repeats:
        assert 1 <= repeat.count <= sum(digest == repeat.digest for digest, _ in made)
    assert most_repeated(repeats) <= len(made)
