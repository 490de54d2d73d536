"""Replays over HTTP: what would differ in the turns of many threads."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from domain.ids import SLICES, Position, Slice
from tests.fakes.openai_server import OpenAIServer
from tests.support import replayed_agents
from tests.support.http import Api, running_api

UNKNOWN = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(otherwise=replayed_agents.answer) as server:
        yield server


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str, model: OpenAIServer) -> AsyncIterator[Api]:
    async with running_api(
        database_url=url,
        agents=replayed_agents.AGENTS,
        llm_endpoint=model.endpoint,
        prices=Path("tests/support/prices.json"),
    ) as client:
        yield client


async def talk(api: Api, *texts: str, graph: str = "desk") -> str:
    thread = await api.opened(graph=graph)
    for text in texts:
        turn = await api.turn(thread, text)
        assert (turn.status_code, turn.json()["status"]) == (200, "completed"), turn.text
    return thread


async def replay(api: Api, **body: Any) -> dict[str, Any]:
    response = await api.post("/v1/replays", json=body, params={"consistency": "strong"})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def count_events(api: Api) -> int:
    store = api.service.runtime.repository.store
    return sum([len(await store.read_slice(Slice(n), Position(0), 1_000)) for n in range(SLICES)])


def differing(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the thread and the message of each turn that is not the same."""
    turns = [(thread["thread_id"], turn) for thread in report["threads"] for turn in thread["turns"]]
    return [(thread_id, turn["said"]) for thread_id, turn in turns if turn["verdict"] != "same"]


async def test_an_unchanged_agent_differs_nowhere_and_nothing_is_called_or_stored(
    api: Api, model: OpenAIServer
) -> None:
    first = await talk(api, "double 4", "I want a refund")
    second = await talk(api, "hello")
    asked, called, stored = len(model.requests), len(replayed_agents.CALLS), await count_events(api)
    report = await replay(api, threads=[second, first])
    assert [(one["thread_id"], one["agent"], len(one["turns"])) for one in report["threads"]] == [
        (second, "desk", 1),
        (first, "desk", 2),
    ]
    assert (report["same"], report["differs"], report["unknown"], report["failed"]) == (3, 0, 0, 0)
    turn = report["threads"][1]["turns"][0]
    assert (turn["verdict"], turn["parted"], turn["said"]) == ("same", None, "double 4")
    assert turn["then"] == turn["now"]
    assert turn["now"]["tools"] == [{"tool": "double", "arguments": {"number": 4}}]
    assert (turn["now"]["answer"], turn["now"]["outcome"]) == ("You said: 8", "completed")
    assert report["then"] == report["now"]
    assert report["now"] == {"prompt_tokens": 28, "completion_tokens": 12, "cost_usd": pytest.approx(0.00019)}
    assert (await replay(api, filter={}))["same"] == 3, "also by a filter"
    assert (await replay(api, threads=[first], live=True))["same"] == 2, "also with a live model"
    assert len(model.requests) == asked + 3, "only the live replay asks the model"
    assert len(replayed_agents.CALLS) == called
    assert await count_events(api) == stored


async def test_with_changed_instructions_a_live_model_names_the_turns_that_differ(api: Api) -> None:
    first = await talk(api, "hello", "a refund, please", "double 4")
    second = await talk(api, "thanks")
    third = await talk(api, "when is my refund?")
    report = await replay(api, threads=[first, second, third], agent="polite", live=True)
    assert differing(report) == [(first, "a refund, please"), (third, "when is my refund?")]
    assert (report["same"], report["differs"], report["unknown"]) == (3, 2, 0)
    turn = report["threads"][2]["turns"][0]
    assert (turn["then"]["answer"], turn["now"]["answer"]) == (
        "You said: when is my refund?",
        "Of course: when is my refund?",
    )
    short = await replay(api, threads=[first, second, third], agent="polite", live=True, only_different=True)
    assert [thread["thread_id"] for thread in short["threads"]] == [first, third]
    assert [turn["said"] for thread in short["threads"] for turn in thread["turns"]] == [
        "a refund, please",
        "when is my refund?",
    ]
    assert (short["same"], short["then"]) == (3, report["then"]), "they are counted, too"


async def test_what_the_log_cannot_answer_is_unknown(api: Api) -> None:
    thread = await talk(api, "hello")
    report = await replay(api, threads=[thread], agent="curious")
    (turn,) = report["threads"][0]["turns"]
    assert (turn["verdict"], report["unknown"], report["differs"]) == ("unknown", 1, 0)
    assert "it was not asked then" in turn["unknown"]
    live = await replay(api, threads=[thread], agent="curious", live=True)
    (turn,) = live["threads"][0]["turns"]
    assert (turn["verdict"], turn["unknown"]) == ("differs", None)


async def test_a_filter_chooses_threads_and_a_limit_says_that_there_are_more(api: Api) -> None:
    first = await talk(api, "double 4")
    second = await talk(api, "a refund, please")
    other = await talk(api, "hello", graph="curious")

    async def chosen(**body: Any) -> list[str]:
        return [thread["thread_id"] for thread in (await replay(api, **body))["threads"]]

    assert await chosen(filter={}) == [other, second, first]
    assert await chosen(filter={"graph": "desk"}) == [second, first]
    assert await chosen(filter={"search": "refund"}) == [second]
    assert await chosen(filter={"title": "double"}) == [first]
    assert await chosen(filter={"outcome": ["failed"]}) == []
    assert await chosen(filter={"status": ["idle"], "outcome": ["completed"]}) == [other, second, first]
    assert await chosen(filter={"reason": ["length"]}) == []
    assert await chosen(filter={"active_before": "2020-01-01T00:00:00Z"}) == []
    assert await chosen(filter={"active_since": "2020-01-01T00:00:00Z", "graph": "desk"}) == [second, first]
    limited = await replay(api, filter={"graph": "desk"}, limit=1)
    assert ([one["thread_id"] for one in limited["threads"]], limited["truncated"]) == ([second], True)
    named = await replay(api, threads=[first, first, second], limit=2)
    assert ([one["thread_id"] for one in named["threads"]], named["truncated"]) == ([first, second], False)


async def test_replays_are_recorded_as_reads_of_each_thread_and_its_parents(api: Api) -> None:
    first, second = await talk(api, "double 4"), await talk(api, "hello")
    fork = (await api.post(f"/v1/threads/{second}/fork", json={})).json()["thread_id"]
    await api.post("/v1/replays", json={"threads": [first, fork]}, headers={"X-Actor": "ann"})
    reads = (await api.get("/v1/audit/reads", params={"what": "replay"})).json()["items"]
    assert [(read["threads"], read["actor"], read["request"]) for read in reads] == [
        ([first, fork, second], "ann", "/v1/replays")
    ]


BAD: dict[str, tuple[Any, int, str]] = {
    "nothing": ({}, 400, "threads"),
    "both": ({"threads": [UNKNOWN], "filter": {}}, 400, "filter"),
    "no threads": ({"threads": []}, 400, "threads"),
    "not a thread's id": ({"threads": ["x"]}, 400, "threads.0"),
    "too many threads": ({"threads": [UNKNOWN] * 201}, 400, "threads"),
    "a thread that is not there": ({"threads": [UNKNOWN]}, 404, "threads.0"),
    "an agent that is not there": ({"filter": {}, "agent": "nobody"}, 404, "agent"),
    "an agent's file": ({"filter": {}, "agent": "tests/support/replayed_agents.py:desk"}, 404, "agent"),
    "an agent's module": ({"filter": {}, "agent": "tests.support.replayed_agents:desk"}, 404, "agent"),
    "an agent that is no text": ({"filter": {}, "agent": 5}, 400, "agent"),
    "limit of nothing": ({"filter": {}, "limit": 0}, 400, "limit"),
    "limit beyond the most": ({"filter": {}, "limit": 201}, 400, "limit"),
    "limit as text": ({"filter": {}, "limit": "5"}, 400, "limit"),
    "live as text": ({"filter": {}, "live": "false"}, 400, "live"),
    "an unknown field": ({"filter": {}, "alive": True}, 400, "alive"),
    "an unknown filter": ({"filter": {"name": "x"}}, 400, "filter.name"),
    "a status that is not there": ({"filter": {"status": ["busy"]}}, 400, "filter.status.0"),
    "an outcome that is not there": ({"filter": {"outcome": ["good"]}}, 400, "filter.outcome.0"),
    "a reason that is not there": ({"filter": {"reason": ["none"]}}, 400, "filter.reason.0"),
    "statuses as one text": ({"filter": {"status": "idle"}}, 400, "filter.status"),
    "an instant without a zone": ({"filter": {"active_since": "2026-11-23T10:00:00"}}, 400, "filter.active_since"),
    "a number as an instant": ({"filter": {"active_since": 5}}, 400, "filter.active_since"),
    "a range that is reversed": (
        {"filter": {"active_since": "2026-11-23T10:00:00Z", "active_before": "2026-11-22T10:00:00Z"}},
        400,
        "filter.active_before",
    ),
    "common words only": ({"filter": {"search": ""}}, 400, "filter.search"),
    "NUL": ({"filter": {"title": "a\0b"}}, 400, "filter.title"),
    "a list": ([], 400, ""),
}


async def test_bad_input_gets_a_problem_that_names_the_field(api: Api) -> None:
    wrong = []
    for name, (body, status, field) in BAD.items():
        response = await api.post("/v1/replays", json=body)
        document = response.json()
        fields = [error["field"] for error in document.get("errors", ())]
        if response.status_code != status or (field and field not in fields):
            wrong.append(f"{name}: {response.status_code} {document}, expected {status} {field}")
    assert not wrong, "\n".join(wrong)
    other = await api.post("/v1/replays", params={"consistency": "weak"}, json={"filter": {}})
    assert (other.status_code, other.json()["errors"][0]["field"]) == (400, "consistency")
