"""Outputs that clients request for single turns: what is accepted, recorded, and what the turn's answer must be."""

import json
from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node
from domain.agents.requested_output import final_output, requested_output
from domain.application.command_handler import CommandRequest, execute
from domain.application.fork import Fork, fork
from domain.application.replay.replay import Replay
from domain.application.thread_repository import ThreadRepository
from domain.errors import InvalidInput, ThreadBusy
from domain.ids import ThreadId, TurnId
from domain.models.chat import ModelError, OutputFormat
from domain.thread.codec import Metadata
from domain.thread.commands import FailTurn, RetryTurn, StartTurn
from domain.thread.decide import decide
from domain.thread.events import (
    MessageAppended,
    ModelAnswered,
    NodeEvent,
    QuestionAsked,
    ThreadOpened,
    TurnCompleted,
    TurnEnqueued,
    TurnFailed,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.size_limits import MAX_OUTPUT_SCHEMA_CHARACTERS
from domain.thread.state import INITIAL, Idle, Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.given import given
from tests.support.runtime import Clock, Stage, Words, calls, double, one_node, says, stage

SCHEMA = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
TOTAL = OutputFormat("total", SCHEMA)
RIGHT, WRONG = '{"total":8}', '{"total": "eight"}'
TURN, OTHER = TurnId(uuid4()), TurnId(uuid4())
OPENED = ThreadOpened("solo")


async def said(played: Stage) -> list[str | None]:
    return [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]


async def outcome(played: Stage) -> TurnCompleted | TurnFailed:
    (ended,) = await played.happened(TurnCompleted, TurnFailed)
    assert isinstance(ended, TurnCompleted | TurnFailed)
    return ended


async def _generate(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.generate()


class TestAnswers:
    async def test_one_that_does_not_fit_is_corrected_once_after_the_tools_have_run(self) -> None:
        agent = assistant(tools=[double])
        played = stage(agent, calls(("double", {"number": 4})), says(WRONG), says(f"Here:\n```json\n{RIGHT}\n```"))
        await played.say("double 4", TOTAL)
        assert (await said(played))[-1] == RIGHT
        assert [request.output for request in played.script.asked] == [TOTAL] * 3
        assert 'total: "eight" is not of type "integer"' in str(played.script.asked[2].messages[-1].content)
        (first,) = await played.happened(ModelAnswered)
        assert isinstance(first, ModelAnswered)
        assert first.content == WRONG
        assert isinstance(await outcome(played), TurnCompleted)

    async def test_two_that_do_not_fit_fail_the_turn(self) -> None:
        played = stage(one_node(_generate), says(WRONG), says("no"))
        await played.say("double 4", TOTAL)
        failed = await outcome(played)
        assert isinstance(failed, TurnFailed)
        assert "The answer does not fit total" in failed.detail

    async def test_another_value_than_an_object_is_wrapped_for_the_model(self) -> None:
        played = stage(one_node(_generate), says('{"answer": [1, 2]}'))
        await played.say(
            "which?", requested_output({"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {}}})
        )
        assert (await said(played))[-1] == "[1,2]"
        (asked,) = played.script.asked
        assert asked.output is not None
        assert asked.output.schema["type"] == "object"
        assert asked.output.schema["$defs"] == {"n": {}}

    @pytest.mark.parametrize("answer", [None, {"answer": 1}, "answer", [], "1"])
    async def test_any_value_is_kept_as_it_is(self, answer: Any) -> None:
        played = stage(one_node(_generate), says(json.dumps({"answer": answer})))
        await played.say("which?", requested_output({"enum": [answer]}))
        assert isinstance(await outcome(played), TurnCompleted)
        assert json.loads((await said(played))[-1] or "") == answer

    async def test_the_request_wins_over_the_agents_own_output_and_only_for_its_turn(self) -> None:
        agent = Agent(Graph("solo", "only", [Node("only", _generate)], {"only": "END"}), output=Literal["yes", "no"])
        played = stage(agent, says(RIGHT), says('{"answer":"yes"}'))
        await played.say("one", TOTAL)
        await played.say("two")
        assert [request.output.name for request in played.script.asked if request.output] == ["total", "Literal"]
        assert (await said(played))[1::2] == [RIGHT, '"yes"']

    async def test_a_message_that_a_node_writes_must_fit_as_well(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(RIGHT if turn.user_input == "right" else "Eight.")]

        played = stage(one_node(work))
        await played.say("right", TOTAL)
        assert isinstance(await outcome(played), TurnCompleted)
        played = stage(one_node(work))
        await played.say("wrong", TOTAL)
        failed = await outcome(played)
        assert isinstance(failed, TurnFailed)
        assert "Eight." in failed.detail
        await (other := stage(one_node(work))).say("wrong")
        assert isinstance(await outcome(other), TurnCompleted)

    async def test_a_turn_without_an_answer_fails(self) -> None:
        async def work(_: TurnContext) -> Sequence[NodeEvent]:
            return []

        played = stage(one_node(work))
        await played.say("go", TOTAL)
        failed = await outcome(played)
        assert isinstance(failed, TurnFailed)
        assert "the turn ends without any" in failed.detail


class TestRecorded:
    def test_a_turn_has_the_output_of_its_command(self) -> None:
        start = StartTurn(TURN, "hi", 1, "only", "f00", output=TOTAL)
        message = MessageAppended("user", "hi", 1)
        given(OPENED).when(start).then(TurnStarted(TURN, "only", "f00", output=TOTAL), message)

    def test_a_queued_message_keeps_it(self) -> None:
        running = (OPENED, TurnStarted(TURN, "only", "f00"), MessageAppended("user", "hi", 1))
        start = StartTurn(OTHER, "more", 1, "only", "f00", "enqueue", output=TOTAL)
        given(*running).when(start).then(TurnEnqueued(OTHER, "more", 1, "only", "f00", output=TOTAL))
        waiting = fold(INITIAL, (*running, TurnEnqueued(OTHER, "more", 1, "only", "f00", output=TOTAL)))
        next_turn = fold(waiting, decide(FailTurn(TURN, "step_limit", "Too long."), waiting))
        assert isinstance(next_turn, Running)
        assert (next_turn.turn.turn_id, next_turn.turn.output) == (OTHER, TOTAL)

    def test_a_retry_keeps_it(self) -> None:
        failed = (
            *(OPENED, TurnStarted(TURN, "only", "f00", output=TOTAL), MessageAppended("user", "hi", 1)),
            TurnFailed(TURN, "node_failed", "no"),
        )
        given(*failed).when(RetryTurn(TURN, OTHER, "f00")).then(
            TurnStarted(OTHER, "only", "f00", retries=TURN, output=TOTAL)
        )

    def test_a_turn_that_completed_does_not_keep_its_schema(self) -> None:
        started = (OPENED, TurnStarted(TURN, "only", "f00", output=TOTAL), MessageAppended("user", "hi", 1))
        after = fold(INITIAL, (*started, TurnCompleted(TURN)))
        assert isinstance(after, Idle)
        assert after.thread.last_turn is not None
        assert after.thread.last_turn.output is None

    def test_an_answer_to_the_customers_question_cannot_change_it(self) -> None:
        asked = (
            *(OPENED, TurnStarted(TURN, "only", "f00", output=TOTAL), MessageAppended("user", "hi", 1)),
            *(MessageAppended("assistant", "Which?", 1), QuestionAsked("Which?", "h" * 16, to="customer")),
        )
        answer = StartTurn(OTHER, "A-17", 1, "only", "f00", output=OutputFormat("other", SCHEMA))
        given(*asked).when(answer).then_refused(InvalidInput)
        assert decide(replace(answer, output=TOTAL), fold(INITIAL, asked))
        assert decide(replace(answer, output=None), fold(INITIAL, asked))

    def test_schemas_count_for_what_a_queue_may_take(self) -> None:
        large = OutputFormat("large", {"type": "string", "description": "x" * 16_000})
        waiting = [TurnEnqueued(TurnId(uuid4()), "more", 1, "only", "f00", output=large) for _ in range(62)]
        running = (OPENED, TurnStarted(TURN, "only", "f00"), MessageAppended("user", "hi", 1))
        start = StartTurn(OTHER, "more", 1, "only", "f00", "enqueue", output=large)
        given(*running, *waiting).when(start).then_refused(ThreadBusy)
        given(*running, *waiting).when(replace(start, output=None)).then(TurnEnqueued(OTHER, "more", 1, "only", "f00"))

    def test_a_larger_schema_is_refused(self) -> None:
        large = OutputFormat("large", {"description": "x" * MAX_OUTPUT_SCHEMA_CHARACTERS})
        given(OPENED).when(StartTurn(TURN, "hi", 1, "only", "f00", output=large)).then_refused(InvalidInput)


class TestLater:
    async def test_another_worker_goes_on_with_it(self) -> None:
        played = stage(one_node(_generate), says(RIGHT))
        await played.begin("double 4", output=TOTAL)
        played.forget_hot()  # so that the thread is folded from the log
        loaded = await played.repository.load(played.thread_id)
        await played.turns.run(loaded, Metadata())
        assert [request.output for request in played.script.asked] == [TOTAL]

    async def test_a_retry_asks_for_the_same(self) -> None:
        played = stage(one_node(_generate), ModelError("down"), says(RIGHT))
        await played.say("double 4", TOTAL)
        failed = await outcome(played)
        retry = RetryTurn(TurnId(failed.turn_id), TurnId(uuid4()), played.agent.graph.fingerprint)
        done = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (retry,)))
        await played.turns.run(done.loaded, Metadata())
        assert [request.output for request in played.script.asked] == [TOTAL] * 2
        assert (await said(played))[-1] == RIGHT

    async def test_a_fork_goes_on_with_it(self) -> None:
        played = stage(one_node(_generate), says(RIGHT))
        begun = await played.begin("double 4", output=TOTAL)
        other = ThreadId(uuid4())
        made = await fork(
            played.repository, other, Fork(played.thread_id, begun.loaded.head.version, resume=True), Metadata()
        )
        after = await played.turns.run(made.loaded, Metadata())
        assert [request.output for request in played.script.asked] == [TOTAL]
        assert isinstance(after.state, Idle)

    async def test_a_replay_is_the_same(self) -> None:
        played = stage(assistant(tools=[double]), calls(("double", {"number": 4})), says(WRONG), says(RIGHT))
        await played.say("double 4", TOTAL)

        def sandbox() -> ThreadRepository:
            return ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), Clock(), fingerprint="test")

        replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock)
        (turn,) = await replay.thread(played.thread_id, played.agent)
        assert (turn.verdict, turn.now.answer) == ("same", RIGHT)

    async def test_the_state_of_the_turn_has_it(self) -> None:
        played = stage(one_node(_generate), says(RIGHT))
        begun = await played.begin("double 4", output=TOTAL)
        assert isinstance(begun.loaded.state, Running)
        assert begun.loaded.state.turn.output == TOTAL


class TestErrors:
    def errors(self, schema: dict[str, Any], value: Any) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is what is compared)
            final_output(str, requested_output(schema)).check(value)
        return str(caught.value)

    def test_they_name_the_part_of_the_answer(self) -> None:
        schema = {"type": "object", "properties": {"lines": {"type": "array", "items": SCHEMA}}, "required": ["sum"]}
        errors = self.errors(schema, {"lines": [{"total": 1}, {"total": "x"}]})
        assert '"sum" is a required property' in errors
        assert 'lines.1.total: "x" is not of type "integer"' in errors

    def test_those_of_the_nearest_alternative_are_named(self) -> None:
        schema = {"anyOf": [{"type": "object", "required": ["a", "b"], "additionalProperties": False}, {"const": 1}]}
        assert self.errors(schema, 2) == '2 is not of type "object"'


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"$ref": "https://example.org/schema.json"}, "$ref"),
        ({"$ref": "other.json#/$defs/a"}, "$ref"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "#a"}}}, "properties.a.$dynamicRef"),
        ({"type": "object", "$id": "https://example.org"}, "$id"),
        ({"type": "object", "$schema": "https://example.org/meta"}, "$schema"),
        ({"type": "array", "items": {"if": {}}}, "items.if"),
        ({"anyOf": [{"type": "string", "pattern": "(?!a)"}]}, "anyOf.0.pattern"),
        ({"type": "string", "pattern": "(a{1000}){1000}"}, "pattern"),
        ({"type": "string", "pattern": "a" * 501}, "pattern"),
        ({"type": "string", "format": []}, "format"),
        ({"type": "string", "title": {}}, "title"),
        ({"$ref": "#"}, "$ref"),
        (
            {
                "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(400)} | {"d400": {}},
                "$ref": "#/$defs/d0",
            },
            "",
        ),
    ],
)
def test_a_schema_is_refused_with_its_field(schema: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        requested_output(schema)
    assert refused.value.field.startswith(f"output.schema.{field}".rstrip("."))


def test_what_zod_and_pydantic_write_is_accepted() -> None:
    zod = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["a"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["kind"],
        "additionalProperties": False,
    }
    assert "$schema" not in requested_output(zod, "zod").schema
    tree = {"$defs": {"T": {"type": "object", "properties": {"t": {"$ref": "#/$defs/T"}}}}, "$ref": "#/$defs/T"}
    output = final_output(str, requested_output(tree))
    assert not output.is_wrapped
    assert output.canonical(json.dumps({"t": {"t": {}}})) == '{"t":{"t":{}}}'
