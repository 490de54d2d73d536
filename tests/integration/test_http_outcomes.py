"""How turns end whose answer is none, or not whole: in the answers, the events, the thread list and the sums."""

import json
from typing import Any

import httpx
import pytest

from domain.models.answers import EMPTY_HINT
from tests.fakes.openai_server import OpenAIServer, Pause, Reply, chunk, completion, events, stream
from tests.integration.test_no_false_success import BROKEN, NOTHING, told
from tests.support.http import Api, running_api

ENDS: dict[str, tuple[Reply, str, str | None]] = {
    "whole": (stream("Hello"), "completed", None),
    "cut at its longest": (told(chunk("hello, this is"), finish="length"), "completed", "length"),
    "refused": (told(chunk(None, refusal="I cannot.")), "completed", "refusal"),
    "an unknown end": (told(chunk("hello"), finish="because"), "completed", "unknown_finish"),
    "empty": (NOTHING["spaces"], "failed", "empty_answer"),
    "reasoning only": (NOTHING["reasoning_content only"], "failed", "empty_answer"),
    "filtered": (told(chunk("Well, you"), finish="content_filter"), "failed", "content_filter"),
    "broken off": (BROKEN, "failed", "node_failed"),
}
AGENTS = ("tests.integration.test_no_false_success:QUICK",)
Json = dict[str, Any]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


async def got(api: Api, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_end_is_told_apart_wherever_turns_are_shown(url: str) -> None:
    async with OpenAIServer() as server:
        settings = {"llm_endpoint": server.endpoint, "llm_model": "test-1", "agents": AGENTS}
        async with running_api(database_url=url, **settings) as api:
            threads = {}
            for name, (reply, status, reason) in ENDS.items():
                server._otherwise = reply
                thread = threads[name] = await api.opened(graph="row")
                turn = (await api.turn(thread, "Well?")).json()
                assert (turn["status"], turn["reason"]) == (status, reason), name
                assert (turn["detail"] is not None) == (status == "failed"), name
                last = (await got(api, f"/v1/threads/{thread}"))["last_turn"]
                assert (last["outcome"], last["reason"]) == (status, reason), name
                assert (await ends(api, thread)) == [reason]
            await check_lists(api, threads)
            await check_sums(api)
            filtered = await got(api, f"/v1/threads/{threads['filtered']}/messages")
            assert [message["role"] for message in filtered["items"]] == ["user"]
            (_, cut) = (await got(api, f"/v1/threads/{threads['cut at its longest']}/messages"))["items"]
            assert (cut["content"], cut["finish"]) == ("hello, this is", "length")


async def ends(api: Api, thread: str) -> list[str | None]:
    found = (await got(api, f"/v1/threads/{thread}/events", limit=1_000))["items"]
    return [event["data"].get("reason") for event in found if event["type"] in {"TurnCompleted", "TurnFailed"}]


async def check_lists(api: Api, threads: dict[str, str]) -> None:
    """Each thread is listed under its outcome and its reason, and under no other."""

    async def listed(**params: str) -> set[str]:
        found = await got(api, "/v1/threads", consistency="strong", **params)
        return {name for name, thread in threads.items() if thread in {item["thread_id"] for item in found["items"]}}

    for outcome in ("completed", "failed", "cancelled"):
        assert await listed(outcome=outcome) == {name for name, end in ENDS.items() if end[1] == outcome}
    for reason in ("length", "refusal", "unknown_finish", "empty_answer", "content_filter", "node_failed"):
        assert await listed(reason=reason) == {name for name, end in ENDS.items() if end[2] == reason}
    assert await listed(outcome="failed", reason="empty_answer,length") == {"empty", "reasoning only"}
    refused = await api.get("/v1/threads", params={"reason": "bad luck"})
    assert (refused.status_code, "empty_answer" in refused.text) == (400, True)


async def check_sums(api: Api) -> None:
    sums = await got(api, "/v1/analytics/turns", group_by="reason", consistency="strong")
    found = {item["reason"]: (item["completed"], item["failed"]) for item in sums["items"]}
    ended = [(reason or "", status) for _, status, reason in ENDS.values()]
    assert found == {
        reason: (ended.count((reason, "completed")), ended.count((reason, "failed"))) for reason, _ in ended
    }
    only = await got(api, "/v1/analytics/turns", reason="empty_answer", consistency="strong")
    assert [item["failed"] for item in only["items"]] == [2]


@pytest.mark.parametrize("graph", ["assistant", "row"])
async def test_an_empty_answer_is_taken_back_and_the_next_one_shown(graph: str) -> None:
    """The stream, and what the model saw: the built-in graph and one of the user's own have the same mechanism."""
    hesitant = events(chunk("<think>what "), chunk("is asked?</think>"), Pause(0.2), chunk(finish="stop"), "[DONE]")
    async with OpenAIServer(hesitant, otherwise=stream("Hel", "lo")) as server:
        settings = {"llm_endpoint": server.endpoint, "llm_model": "test-1", "agents": AGENTS}
        async with running_api(database_url="memory://", **settings) as api:
            thread = await api.opened(graph=graph)
            path = f"/v1/threads/{thread}/stream"
            async with (
                httpx.AsyncClient(base_url=api.base_url, timeout=30) as client,
                client.stream("GET", path, params={"after": 0}) as response,
            ):
                begun = await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "Well?"})
                shown = await text_until_the_end(response)
            (prompt,) = (await got(api, f"/v1/threads/{thread}/context/{begun.json()['turn_id']}"))["prompts"]
    assert shown == ["<think>what is asked?</think>", "Hello"]
    assert prompt["messages"][-1]["content"].endswith(EMPTY_HINT)
    assert prompt["messages"] == server.requests[-1].body["messages"]
    assert [(piece["kind"], piece["text"]) for piece in prompt["pieces"]][-1] == ("hint", EMPTY_HINT)


async def text_until_the_end(response: httpx.Response) -> list[str]:
    """Read what a stream shows of answers: a new text begins where one is withdrawn."""
    texts, kind = [""], ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data" and kind == "delta":
            texts[-1] += json.loads(value)["text"]
        elif name == "data" and kind == "withdrawn":
            assert set(json.loads(value)) == {"after"}
            texts.append("")
        elif name == "data" and kind in {"TurnCompleted", "TurnFailed"}:
            break
    return texts


async def test_the_built_in_agent_fails_with_an_empty_answer_after_two_calls() -> None:
    async with OpenAIServer(otherwise=completion(" ")) as server:
        settings = {"llm_endpoint": server.endpoint, "llm_model": "test-1"}
        async with running_api(database_url="memory://", **settings) as api:
            thread = await api.opened()
            turn = (await api.turn(thread, "Well?")).json()
            assert (turn["status"], turn["reason"], turn["answer"]) == ("failed", "empty_answer", None)
            assert (turn["usage"]["calls"], len(server.requests)) == (2, 2)
            again = await api.post(f"/v1/threads/{thread}/turns/{turn['turn_id']}/retry", params={"wait": True})
            assert again.json()["reason"] == "empty_answer"
