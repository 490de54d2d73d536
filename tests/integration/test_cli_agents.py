"""`threadfold agents check`, and what a process says at its start about turns at nodes that it lacks."""

import asyncio
import logging
from typing import Any

import pytest

from api.services import missing_nodes
from tests.integration.test_http_upgrades import begin, status
from tests.support.command import Done, threadfold
from tests.support.http import running_api


def named(*agents: str) -> tuple[str, ...]:
    return tuple(f"tests.support.renamed_agents:{agent}" for agent in agents)


@pytest.fixture
async def waiting(database_url: str) -> list[str]:
    """Open four threads: two wait at `settle`, one of them with a message in its queue, one at `enter`; one is idle."""
    async with running_api(database_url=database_url, agents=named("before", "guarded")) as api:
        threads = [await begin(api), await begin(api), await begin(api, graph="gate")]
        queued = {"user_input": "more", "strategy": "enqueue"}
        assert (await api.post(f"/v1/threads/{threads[1]}/turns", json=queued)).status_code == 202
        await begin(api, "stumble", until="idle")
    return threads


async def check(database_url: str, *agents: str, options: tuple[str, ...] = ()) -> Done:
    return await threadfold(
        "agents", "check", *options, database_url=database_url, agents=",".join(named(*agents)), columns=200
    )


async def test_turns_at_missing_nodes_and_of_missing_agents_are_listed(database_url: str, waiting: list[str]) -> None:
    done = await check(database_url, "renamed")
    assert done.status == 1, done.err
    heading, *rows = done.out.split("\n\n")[0].splitlines()
    assert heading.split() == ["AGENT", "VERSION", "NODE", "STATUS", "THREAD", "PROBLEM"]
    assert sorted(row.split() for row in rows) == sorted(
        [
            ["gate", "enter", "waiting", waiting[2], "no", "such", "agent"],
            ["till", "settle", "waiting", waiting[0], "no", "such", "node"],
            ["till", "settle", "waiting", waiting[1], "no", "such", "node"],
        ]
    )
    assert "Checked 3 threads with an open turn: 3 turns cannot be continued." in done.out
    assert "aliases=" in done.out


async def test_as_json(database_url: str, waiting: list[str]) -> None:
    done = await check(database_url, "aliased", options=("--json",))
    assert done.status == 1
    report: dict[str, Any] = done.json
    assert report["checked"] == 3
    (gate,) = report["threads"]
    assert (gate["thread_id"], gate["tenant"]) == (waiting[2], "default")
    (turn,) = gate["turns"]
    assert {**turn, "turn_id": None} == {
        "turn_id": None,
        "agent": "gate",
        "version": "",
        "node": "enter",
        "status": "waiting",
        "missing": "agent",
    }


async def test_nothing_is_missing(database_url: str, waiting: list[str]) -> None:
    assert len(waiting) == 3
    done = await check(database_url, "aliased", "guarded")
    assert (done.status, done.out) == (0, "Checked 3 threads with an open turn: each turn can be continued.\n")


async def test_a_queued_turn_whose_first_node_is_missing_is_listed(database_url: str, waiting: list[str]) -> None:
    done = await check(database_url, "restarted", "guarded", options=("--json",))
    (first, second) = sorted(done.json["threads"], key=lambda thread: waiting.index(thread["thread_id"]))
    assert [turn["status"] for turn in first["turns"]] == ["waiting"]
    assert [(turn["status"], turn["node"]) for turn in second["turns"]] == [("waiting", "settle"), ("queued", "ask")]


async def test_a_process_says_at_its_start_which_turns_stand_at_missing_nodes(
    database_url: str, waiting: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_nodes, "REPORT_DELAY_S", 0.0)
    caplog.set_level(logging.WARNING)
    async with running_api(database_url=database_url, agents=named("renamed")) as api, asyncio.timeout(30):
        while "stand at the node" not in caplog.text:
            await asyncio.sleep(0.02)
        await status(api, waiting[0], "waiting")
    lines = [record.getMessage() for record in caplog.records if "stand at the node" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("2 open turns of the agent 'till' stand at the node 'settle'")
    for part in (*waiting[:2], "aliases=('settle',)", "threadfold agents check"):
        assert part in lines[0]


async def test_a_process_that_has_all_nodes_says_nothing(
    database_url: str, waiting: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waiting
    monkeypatch.setattr(missing_nodes, "REPORT_DELAY_S", 0.0)
    async with running_api(database_url=database_url, agents=named("aliased", "guarded")):
        await asyncio.sleep(1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
