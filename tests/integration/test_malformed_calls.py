"""Turns whose model writes calls that cannot be run: it is told, the other calls run, and it takes one more request."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.fakes.openai_server import OpenAIServer, Reply, Request, chunk, events, stream
from tests.support import tool_agents
from tests.support.http import Api, running_api
from tests.support.openai import call, calls

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
async def talking(first: Reply) -> AsyncIterator[tuple[Api, OpenAIServer]]:
    """Serve the agent with a model that answers first as given, and then by telling what its tools said."""

    def answer(request: Request) -> Reply:
        if objections(request.body):
            return Reply([b'{"error": {"message": "arguments must be a JSON object"}}'], 400)
        return stream("Well.") if is_answered(request.body) else first

    tool_agents.RUNS.clear()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(OpenAIServer(otherwise=answer))
        api = await stack.enter_async_context(
            running_api(
                database_url="memory://", llm_endpoint=server.endpoint, agents=("tests.support.tool_agents:odd",)
            )
        )
        yield api, server


async def turn_of(api: Api) -> tuple[str, dict[str, Any]]:
    thread = await api.opened(graph="odd")
    return thread, dict((await api.turn(thread, "go")).json())


async def data_of(api: Api, thread: str, kind: str) -> list[dict[str, Any]]:
    listed = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 200})).json()["items"]
    return [one["data"] for one in listed if one["type"] == kind]


def asking(*parts: dict[str, Any], finish: str = "tool_calls") -> Reply:
    return events(calls(*parts), chunk(finish=finish), "[DONE]")


@pytest.mark.parametrize(("written", "why"), FAULTY.values(), ids=FAULTY)
async def test_a_call_that_cannot_be_read_is_told_and_the_others_run(written: str, why: str) -> None:
    async with talking(asking(call("echo", written, index=0, id="a"), GOOD)) as (api, server):
        thread, turn = await turn_of(api)
        (requested, _) = await data_of(api, thread, "ToolRequested")
        failures = await data_of(api, thread, "NodeFailed")
        transcript = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        runs = list(tool_agents.RUNS)
        again = (await api.turn(thread, "and now?")).json()
        sent = [request.body for request in server.requests]
    assert (turn["status"], turn["answer"]) == ("completed", "Well.")
    assert runs == ["store"]
    assert failures == []
    assert len(sent) == 4, "two requests for each of the two turns"
    told, stored = (message["content"] for message in sent[1]["messages"][-2:])
    assert why in told
    assert "Nothing was run. Call echo again, its arguments as one JSON object with the parameters text." in told
    assert len(told) < 1_000
    assert stored == "stored 0"
    assert requested["written"][:1_000] == written[:1_000]
    assert len(requested["written"]) < 20_000
    assert (requested["arguments"], why in requested["fault"]) == ({}, True)
    (shown, _) = next(message["tool_calls"] for message in transcript if message.get("tool_calls"))
    assert (shown["written"], shown["fault"]) == (requested["written"], requested["fault"])
    assert again["status"] == "completed"


@pytest.mark.parametrize("written", MENDED.values(), ids=MENDED)
async def test_a_call_that_can_be_read_is_run(written: str) -> None:
    async with talking(asking(call("echo", written, index=0, id="a"))) as (api, server):
        thread, turn = await turn_of(api)
        (requested,) = await data_of(api, thread, "ToolRequested")
        (succeeded,) = await data_of(api, thread, "ToolSucceeded")
        sent = len(server.requests)
    assert (turn["status"], succeeded["content"], sent) == ("completed", "echo[a]", 2)
    assert requested["arguments"] == {"text": "a"}
    assert requested.get("written", "") in {written, ""}


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
    async with talking(asking(call(name, arguments, index=0, id="a"))) as (api, server):
        thread, turn = await turn_of(api)
        (failed,) = await data_of(api, thread, "ToolFailed")
        sent = len(server.requests)
    assert (turn["status"], sent) == ("completed", 2)
    assert told in failed["error"]
    assert len(failed["error"]) < 5_000
    assert tool_agents.RUNS == []


async def test_a_call_that_was_cut_by_the_limit_of_tokens_is_told_so() -> None:
    first = asking(call("store", '{"data": {"text": "abc', index=0, id="a"), finish="length")
    async with talking(first) as (api, server):
        _, turn = await turn_of(api)
        told = server.requests[-1].body["messages"][-1]["content"]
    assert turn["status"] == "completed"
    assert "broken off within the arguments of this call" in told


async def test_a_model_that_does_not_mend_its_calls_is_stopped() -> None:
    def answer(request: Request) -> Reply:
        broken = '{"text": "' + "x" * len(request.body["messages"])  # another fault each time
        return asking(call("echo", broken, index=0, id="a"))

    async with (
        OpenAIServer(otherwise=answer) as server,
        running_api(
            database_url="memory://", llm_endpoint=server.endpoint, agents=("tests.support.tool_agents:odd",)
        ) as api,
    ):
        _, turn = await turn_of(api)
        told = [message["content"] for message in server.requests[-1].body["messages"] if message["role"] == "tool"]
    assert (turn["status"], turn["reason"]) == ("failed", "repeated_calls")
    assert turn["detail"].startswith("The model made a call that cannot be run in 20 answers, while nothing else")
    assert len(server.requests) == 20
    assert told[-1].endswith("[This is the 19th answer in this turn with a call that cannot be run.]")
