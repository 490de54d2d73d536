"""Turns whose model writes calls that cannot be run: it is told, the other calls run, and it takes one more request."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.application.queries.transcript import Transcript
from domain.application.turns.model_registry import ModelRegistry
from domain.thread.codec import to_json
from domain.thread.events import ModelFailed, NodeFailed, ToolFailed, ToolRequested
from domain.thread.state import Ended
from tests.fakes.openai_server import OpenAIServer, Otherwise, Reply, Request, chunk, events, refusal, stream
from tests.support import tool_agents
from tests.support.openai import call, calls, client
from tests.support.runtime import Stage, stage

GOOD = call("store", '{"data": {}}', index=1, id="b")

FAULTY = {
    "truncated": ('{"text": "abc', "it ends before this string does, at line 1, column 10"),
    "NaN": ('{"text": NaN}', "NaN is not JSON"),
    "an array": ('["a"]', "found an array"),
    "a text before": ('Sure! {"text": "a"}', "expected a JSON object"),
    "two values for a key": ('{"text": "a", "text": "b"}', "given twice"),
    "a lone surrogate": ('{"text": "a\\ud83d"}', "lone surrogate"),
    "a wrong escape": ('{"text": "\\d"}', "unknown escape"),
    "too long": ('{"text": "' + "x" * 300_000 + '"}', "may take 262,144 characters"),
    "too long and truncated": ('{"text": "' + "x" * 300_000, "Unterminated string"),
}

MENDED = {
    "a fence": '```json\n{"text": "a"}\n```',
    "a JSON text": json.dumps('{"text": "a"}'),
    "a line break": '{"text":\n"a"}',
    "a trailing comma": '{"text": "a",}',
    "single quotes": "{'text': 'a'}",
    "an empty object before": '{}{"text": "a"}',
}


def is_answered(body: Any) -> bool:
    return bool(body["messages"][-1]["role"] == "tool")


def objections(body: Any) -> list[str]:
    """Say what strict endpoints would object to in the calls of a prompt."""
    found = []
    for message in body["messages"]:
        for asked in message.get("tool_calls", ()):
            try:
                arguments = json.loads(asked["function"]["arguments"])
            except ValueError:
                arguments = None
            if not isinstance(arguments, dict):
                found.append(f"{asked['id']}: arguments are no JSON object")
    return found


@asynccontextmanager
async def talking(first: Otherwise) -> AsyncIterator[tuple[Stage, OpenAIServer]]:
    """Make a stage whose model answers first as given, and once its tools have said something with `Well.`"""

    def answer(request: Request) -> Reply:
        if objections(request.body):
            return refusal(400, "arguments must be a JSON object")
        if is_answered(request.body) and isinstance(first, Reply):
            return stream("Well.")
        return first if isinstance(first, Reply) else first(request)

    tool_agents.RUNS.clear()
    async with OpenAIServer(otherwise=answer) as server, client(server) as model:
        yield stage(tool_agents.odd, models=ModelRegistry.alone(model, "small")), server


async def last_turn(played: Stage) -> Ended:
    loaded = await played.say("go")
    assert loaded.state.thread.last_turn is not None  # type: ignore[union-attr]
    return loaded.state.thread.last_turn  # type: ignore[union-attr]


async def requests_of(played: Stage) -> list[ToolRequested]:
    return [event for event in await played.events() if isinstance(event, ToolRequested)]


def asking(*parts: dict[str, Any], finish: str = "tool_calls") -> Reply:
    return events(calls(*parts), chunk(finish=finish), "[DONE]")


@pytest.mark.parametrize(("written", "why"), FAULTY.values(), ids=FAULTY)
async def test_a_call_that_cannot_be_read_is_told_and_the_others_run(written: str, why: str) -> None:
    async with talking(asking(call("echo", written, index=0, id="a"), GOOD)) as (played, server):
        ended = await last_turn(played)
        runs, (requested, _) = list(tool_agents.RUNS), await requests_of(played)
        again = await last_turn(played)
        sent = [request.body for request in server.requests]
        transcript = [message async for message in Transcript(played.repository, played.thread_id).read()]
    assert (ended.outcome, runs, again.outcome) == ("completed", ["store"], "completed")
    assert await played.happened(NodeFailed, ModelFailed) == []
    assert len(sent) == 4, "two requests for each of the two turns"
    told, stored = (message["content"] for message in sent[1]["messages"][-2:])
    assert why in told
    assert "Nothing was run. Call echo again with its arguments as one JSON object; the parameters are text." in told
    assert len(told) < 1_000
    assert stored == "stored 0"
    assert requested.written[:1_000] == written[:1_000]
    assert len(requested.written) < 20_000
    assert (requested.arguments, why in requested.fault) == ({}, True)
    (shown, _) = next(message.tool_calls for message in transcript if message.tool_calls)
    assert (shown.written, shown.fault) == (requested.written, requested.fault)
    loaded = await played.repository.load(played.thread_id)
    assert requested.written not in to_json(loaded.state), "the folded state is bounded"


@pytest.mark.parametrize("written", MENDED.values(), ids=MENDED)
async def test_a_call_that_can_be_read_is_run(written: str) -> None:
    async with talking(asking(call("echo", written, index=0, id="a"))) as (played, server):
        ended = await last_turn(played)
        (requested,) = await requests_of(played)
        (message,) = (one for one in server.requests[-1].body["messages"] if one["role"] == "tool")
    assert (ended.outcome, message["content"], len(server.requests)) == ("completed", "echo[a]", 2)
    assert requested.arguments == {"text": "a"}
    assert requested.written in {written, ""}


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("browser.tabs.open", "{}", "There is no tool 'browser.tabs.open'. The tools are: echo, store, pay, refund."),
        ("x" * 8_000, "{}", "There is no tool 'xxx"),
        ("", "{}", "The call does not name a tool. The tools are: echo, store, pay, refund."),
        ("missing", '{"a": ', "There is no tool 'missing'."),
        ("echo", '{"text": {"a": 1}}', "text: Input should be a valid string"),
        ("echo", '{"texts": "a"}', "texts: Extra inputs are not permitted"),
        ("store", "null", "data: Field required"),
        ("echo", json.dumps({f"key{n}": n for n in range(500)}), "and 490 more"),
        ("pay", '{"amount": 1', "it ends before the object does"),
        ("refund", '{"amount": 1', "it ends before the object does"),
    ],
    ids=lambda value: value[:24],
)
async def test_a_call_that_cannot_be_run_is_told(name: str, arguments: str, told: str) -> None:
    async with talking(asking(call(name, arguments, index=0, id="a"))) as (played, server):
        ended = await last_turn(played)
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert (ended.outcome, len(server.requests), tool_agents.RUNS) == ("completed", 2, [])
    assert told in failed.error
    assert len(failed.error) < 5_000


async def test_a_call_that_was_cut_by_the_limit_of_tokens_is_told_so() -> None:
    first = asking(call("store", '{"data": {"text": "abc', index=0, id="a"), finish="length")
    async with talking(first) as (played, _):
        ended = await last_turn(played)
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert ended.outcome == "completed"
    assert "broken off within the arguments of this call" in failed.error


async def test_a_model_that_does_not_mend_its_calls_is_stopped() -> None:
    def answer(request: Request) -> Reply:
        broken = '{"text": "' + "x" * len(request.body["messages"])  # another fault each time
        return asking(call("echo", broken, index=0, id="a"))

    async with talking(answer) as (played, server):
        ended = await last_turn(played)
    told = [message["content"] for message in server.requests[-1].body["messages"] if message["role"] == "tool"]
    assert (ended.outcome, ended.reason, len(server.requests)) == ("failed", "repeated_calls", 20)
    assert (ended.detail or "").startswith(
        "The model made a call that cannot be run in 20 answers, and made no other progress"
    )
    assert told[-1].endswith("[This is the 19th answer in this turn with a call that cannot be run.]")
