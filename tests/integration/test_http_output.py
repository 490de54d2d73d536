"""Outputs that requests ask for: the answer of the turn is JSON that fits the schema of the request."""

import asyncio
import socket
from typing import Any

import pytest

from tests.fakes.openai_server import OpenAIServer, Reply, Request, completion, stream
from tests.fakes.strict_model import StrictModel
from tests.support.http import Api, running_api

SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "integer"}, "mood": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["total", "mood"],
    "additionalProperties": False,
}
OUTPUT = {"schema": SCHEMA, "name": "report"}
SAID = "The total is 42 and the mood is bad"
REPORT = {"total": 42, "mood": "bad"}
AGENTS = ("tests.support.agents:claims", "tests.support.agents:slow", "tests.support.agents:consulted")


async def turn(api: Api, thread: str, said: str = SAID, *, output: Any = OUTPUT, **body: object) -> Any:
    path = f"/v1/threads/{thread}/turns"
    return await api.post(path, params={"wait": True}, json={"user_input": said, "output": output, **body})


async def events(api: Api, thread: str) -> list[dict[str, Any]]:
    return list((await api.get(f"/v1/threads/{thread}/events", params={"limit": 200})).json()["items"])


async def idle(api: Api, thread: str) -> None:
    async with asyncio.timeout(60):
        while (await api.get(f"/v1/threads/{thread}")).json()["status"] != "idle":
            await asyncio.sleep(0.02)


async def test_the_answer_fits_and_its_value_is_there() -> None:
    async with running_api(database_url="memory://") as api:
        thread = await api.opened()
        ended = (await turn(api, thread)).json()
        assert (ended["status"], ended["answer"], ended["output"]) == ("completed", '{"total":42,"mood":"bad"}', REPORT)
        plain = (await api.turn(thread, "Hello")).json()
        assert "output" not in plain, "the output is one turn's"
        nothing = (await turn(api, thread, "Hello", output={"schema": {"type": "null"}})).json()
        assert (nothing["answer"], nothing["output"]) == ("null", None)
        context = (await api.get(f"/v1/threads/{thread}/context/{ended['turn_id']}")).json()
        assert '"enum":["good","bad"]' in context["prompts"][0]["messages"][0]["content"]
        begun = [e["data"] for e in await events(api, thread) if e["type"] == "TurnStarted"]
        assert [each.get("output") for each in begun] == [
            OUTPUT,
            None,
            {"name": "answer", "schema": {"type": "null"}},
        ]
        listed = (await api.get(f"/v1/threads/{thread}/turns", params={"consistency": "strong"})).json()["items"]
        assert listed[-1]["answer"] == '{"total":42,"mood":"bad"}'
        replayed = await api.post("/v1/replays", json={"threads": [thread]}, params={"consistency": "strong"})
        assert (replayed.json()["same"], replayed.json()["differs"]) == (3, 0)


async def test_an_agents_own_output_has_its_value_too_and_the_request_wins() -> None:
    async with running_api(database_url="memory://", agents=AGENTS) as api:
        thread = await api.opened(graph="claims")
        own = (await api.turn(thread, "Order A-17 came late, 30 of it is wrong")).json()
        assert own["output"] == {"order": "A-17", "amount": 30, "reason": "late"}
        assert (await turn(api, thread)).json()["output"] == REPORT


async def test_invoke_takes_one_and_opens_the_thread() -> None:
    async with running_api(database_url="memory://") as api:
        begun = await api.post("/v1/agent/invoke", json={"user_input": SAID, "output": OUTPUT})
        assert begun.status_code == 202
        thread = begun.json()["thread_id"]
        await idle(api, thread)
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        assert messages[-1]["content"] == '{"total":42,"mood":"bad"}'


async def test_a_strict_endpoint_is_asked_with_the_schema() -> None:
    model = StrictModel()
    async with (
        OpenAIServer(otherwise=model) as server,
        running_api(database_url="memory://", llm_endpoint=server.endpoint) as api,
    ):
        ended = (await turn(api, await api.opened())).json()
        assert list(model.refused.values()) == []
        assert ended["output"] == REPORT, ended
        asked = server.requests[-1].body["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA, "strict": True}}


async def test_a_model_that_never_fits_is_corrected_once() -> None:
    def wrong(request: Request) -> Reply:
        text = '{"total": "many", "mood": "bad"}'
        return stream(text) if request.body.get("stream") else completion(text)

    async with (
        OpenAIServer(otherwise=wrong) as server,
        running_api(database_url="memory://", llm_endpoint=server.endpoint, agents=AGENTS) as api,
    ):
        thread = await api.opened(graph="consulted")
        waiting = (await turn(api, thread)).json()
        await answered(api, thread)
        await idle(api, thread)
        ended = (await api.get(f"/v1/threads/{thread}/state")).json()["last_turn"]
        assert (ended["turn_id"], ended["outcome"]) == (waiting["turn_id"], "failed")
        assert 'total: "many" is not of type "integer"' in ended["detail"]
        assert len(server.requests) == 2
        last = server.requests[-1].body["messages"]
        assert [message["role"] for message in last[-2:]] == ["assistant", "user"]


async def answered(api: Api, thread: str) -> None:
    """Answer the question to a person."""
    (asked,) = (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"]
    path = f"/v1/threads/{thread}/approvals/{asked['approval_id']}"
    answer = {"hash": asked["hash"], "decision": "answer", "answer": "yes"}
    assert (await api.post(path, json=answer)).is_success


async def test_another_process_goes_on_with_it(database_url: str) -> None:
    async with running_api(database_url=database_url, agents=AGENTS) as first:
        thread = await first.opened(graph="consulted")
        assert (await turn(first, thread)).json()["status"] == "waiting"
        fork = (await first.post(f"/v1/threads/{thread}/fork", json={"resume": True})).json()["thread_id"]
        dropped = (await first.post(f"/v1/threads/{thread}/fork", json={})).json()["thread_id"]
    async with running_api(database_url=database_url, agents=AGENTS) as second:
        state = (await second.get(f"/v1/threads/{thread}/state")).json()
        assert state["turn"]["output"] == OUTPUT
        for each in (thread, fork):
            await answered(second, each)
            await idle(second, each)
        ended = (await second.get(f"/v1/threads/{dropped}/state")).json()["last_turn"]
        assert ended["outcome"] == "cancelled"
        retried = await second.post(f"/v1/threads/{dropped}/turns/{ended['turn_id']}/retry", params={"wait": True})
        assert retried.status_code == 202
        await answered(second, dropped)
        await idle(second, dropped)
        for each in (thread, fork, dropped):
            messages = (await second.get(f"/v1/threads/{each}/messages")).json()["items"]
            assert messages[-1]["content"] == '{"total":42,"mood":"bad"}'


async def test_a_queued_message_keeps_its_output() -> None:
    async with running_api(database_url="memory://", agents=AGENTS) as api:
        thread = await api.opened(graph="consulted")
        assert (await api.turn(thread, "Hello")).json()["status"] == "waiting"
        path = f"/v1/threads/{thread}/turns"
        body = {"user_input": SAID, "output": OUTPUT, "strategy": "interrupt"}
        assert (await api.post(path, json=body)).status_code == 202
        await answered(api, thread)
        await idle(api, thread)
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        assert messages[-1]["content"] == '{"total":42,"mood":"bad"}'


async def test_an_agent_that_writes_text_itself_fails_such_a_turn() -> None:
    async with running_api(database_url="memory://", agents=AGENTS) as api:
        ended = (await turn(api, await api.opened(graph="slow"))).json()
        assert (ended["status"], ended["reason"]) == ("failed", "node_failed")
        assert "The answer does not fit report: it is not JSON. The agent said: That is all." in ended["detail"]
        assert "output" not in ended


async def test_a_repeated_command_must_ask_for_the_same() -> None:
    async with running_api(database_url="memory://") as api:
        thread = await api.opened()
        body = {"user_input": SAID, "output": OUTPUT}

        async def post(output: Any) -> Any:
            path, key = f"/v1/threads/{thread}/turns", {"Idempotency-Key": "one"}
            return await api.post(path, params={"wait": True}, json={**body, "output": output}, headers=key)

        first, again = await post(OUTPUT), await post(OUTPUT)
        assert first.json()["turn_id"] == again.json()["turn_id"]
        for other in (None, {"schema": SCHEMA}, {"schema": {"type": "object"}, "name": "report"}):
            assert (await post(other)).status_code == 422


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(70):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("output", "field"),
    [
        ("text", "output"),
        ({"name": "report"}, "output.schema"),
        ({"schema": "object"}, "output.schema"),
        ({"schema": []}, "output.schema"),
        ({"schema": {}}, "output.schema"),
        ({"schema": SCHEMA, "name": "a report"}, "output.name"),
        ({"schema": SCHEMA, "name": "report\n"}, "output.name"),
        ({"schema": SCHEMA, "strict": True}, "output.strict"),
        ({"schema": {"type": "text"}}, "output.schema.type"),
        ({"schema": {"type": "object", "not": {}}}, "output.schema.not"),
        ({"schema": {"type": "object", "description": "x" * 200_000}}, "output.schema"),
        ({"schema": DEEP}, "output.schema.items.items"),
        ({"schema": {"type": "string", "pattern": "(?=(a+)+)b"}}, "output.schema.pattern"),
        ({"schema": {"type": "string", "pattern": "((a{99}){99}){99}"}}, "output.schema.pattern"),
        ({"schema": {"type": "string", "const": "\0"}}, "output.schema.const"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/threads/{}/turns", "/v1/agent/invoke"])
async def test_a_bad_schema_is_refused_and_nothing_is_appended(path: str, output: Any, field: str) -> None:
    async with running_api(database_url="memory://") as api:
        thread = await api.opened()
        body = {"user_input": "Hello", "output": output, **({"thread_id": thread} if "invoke" in path else {})}
        refused = await api.post(path.format(thread), json=body)
        assert refused.status_code == 400, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["errors"][0]["field"].startswith(field)
        assert [event["type"] for event in await events(api, thread)] == ["ThreadOpened"]


async def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)  # noqa: FBT003  (the socket's API)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/schema.json"
        async with running_api(database_url="memory://") as api:
            thread = await api.opened()
            for keyword in ("$ref", "$schema", "$id", "$dynamicRef", "$recursiveRef", "$anchor"):
                for schema in ({keyword: url}, {"type": "object", "properties": {"a": {keyword: url}}}):
                    refused = await turn(api, thread, output={"schema": {"type": "object", **schema}})
                    assert refused.status_code == 400, refused.text
                    assert refused.json()["errors"][0]["field"].endswith(keyword)
            assert [event["type"] for event in await events(api, thread)] == ["ThreadOpened"]
        with pytest.raises(BlockingIOError):
            listening.accept()
