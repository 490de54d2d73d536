"""`threadfold replay`: real processes, on a real database."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.ids import ThreadId
from infrastructure.settings import Settings
from tests.fakes.openai_server import OpenAIServer
from tests.support import replayed_agents
from tests.support.command import Done, threadfold
from tests.support.replayed_agents import AGENTS

UNKNOWN = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(otherwise=replayed_agents.answer) as server:
        yield server


@pytest.fixture
async def threads(database_url: str, model: OpenAIServer) -> list[str]:
    """Have two conversations with `desk` and one with the built-in assistant, and name the threads."""
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None, database_url=database_url, llm_endpoint=model.endpoint, agents=AGENTS
    )
    talks = [("desk", "double 4", "a refund, please"), ("desk", "hello"), ("assistant", "thanks")]
    async with open_runtime(settings) as runtime, runtime.worker.working():
        service = Service(runtime)
        named = []
        for graph, *texts in talks:
            thread_id = ThreadId(runtime.new_id())
            for text in texts:
                started = await service.start_turn(thread_id, text, Caller(), open_with=graph)
                finished = await service.turn_end(started.outcome, started.turn_id)
                assert finished is not None
                assert finished.status == "completed"
            named.append(str(thread_id))
    return named


async def replay(*arguments: str, url: str, **settings: object) -> Done:
    given: dict[str, Any] = {"agents": ",".join(AGENTS), "prices": "tests/support/prices.json", **settings}
    return await threadfold("replay", *arguments, database_url=url, **given)


async def test_unchanged_agents_differ_nowhere(threads: list[str], database_url: str, model: OpenAIServer) -> None:
    asked = len(model.requests)
    table = await replay(*threads, url=database_url)
    document = (await replay(threads[0], "--json", url=database_url)).json

    assert (table.status, table.err) == (0, "")
    lines = table.out.splitlines()
    assert lines[0] == f"Thread {threads[0]}, agent desk"
    assert lines[1].split() == ["VERSION", "VERDICT", "OUTCOME", "TOOLS", "TOKENS", "COST", "SAID"]
    assert lines[2].split() == ["2", "same", "completed", "double", "20", "$0.000095", "double", "4"]
    assert [line for line in lines if line.startswith("Thread")] == [
        f"Thread {thread}, agent {name}" for thread, name in zip(threads, ("desk", "desk", "assistant"), strict=True)
    ]
    assert lines[-2] == "4 turns: 4 same, 0 different, 0 unknown."
    totals = re.fullmatch(r"Tokens: (\d+) then, (\d+) now\. Cost: \$(.+) then, \$(.+) now\.", lines[-1])
    assert totals is not None
    assert (totals[1], totals[3]) == (totals[2], totals[4])
    turn = document["threads"][0]["turns"][0]
    present = {"version", "said", "parted", "recorded", "replayed", "prompts_then", "prompts_now", "unknown"}
    assert present | {"then", "now", "verdict"} == turn.keys()
    assert len(model.requests) == asked


async def test_a_live_model_and_another_agent(threads: list[str], database_url: str, model: OpenAIServer) -> None:
    changed = ["--graph", "tests/support/replayed_agents.py:polite", "--live", "--only-different"]
    done = await replay("--agent", "desk", *changed, url=database_url, llm_endpoint=model.endpoint)

    assert (done.status, done.err) == (1, "")
    assert done.out.count("Thread ") == 1
    assert f"Thread {threads[0]}, agent polite" in done.out
    assert "answer then: You said: a refund, please\n" in done.out
    assert "answer now:  Of course: a refund, please\n" in done.out
    assert "double 4" not in done.out
    assert "3 turns: 2 same, 1 different, 0 unknown.\n" in done.out


async def test_what_the_log_does_not_have_is_told(threads: list[str], database_url: str) -> None:
    done = await replay(threads[1], "--graph", "curious", url=database_url)

    assert (done.status, done.err) == (1, "")
    assert "The log does not have the answer to a question outside of the conversation" in done.out
    assert "completed → failed" in done.out
    assert "1 turn: 0 same, 0 different, 1 unknown.\n" in done.out


async def test_a_thread_that_cannot_be_replayed_is_told_among_the_others(threads: list[str], database_url: str) -> None:
    done = await replay(url=database_url, agents="")

    assert (done.status, done.err) == (1, "")
    assert done.out.count("Not replayed to the end: Its agent 'desk' is not registered") == 2
    assert "1 turn: 1 same, 0 different, 0 unknown; 2 threads not replayed to the end.\n" in done.out


async def test_options_choose_threads(threads: list[str], database_url: str) -> None:
    found = await replay("--search", "refund", "--json", url=database_url)
    limited = await replay("--agent", "desk", "--outcome", "completed", "--limit", "1", url=database_url)
    nothing = await replay("--until", "2020-01-01T00:00:00Z", url=database_url)
    listed = await threadfold("threads", "list", "--agent", "assistant", "--json", database_url=database_url)

    assert [thread["thread_id"] for thread in found.json["threads"]] == [threads[0]]
    assert (limited.status, limited.out.count("Thread "), f"Thread {threads[1]}" in limited.out) == (0, 1, True)
    assert limited.err.startswith("There are more threads or turns.")
    assert (nothing.status, nothing.out) == (0, "There are no turns to replay.\n")
    assert [thread["thread_id"] for thread in listed.json["items"]] == [threads[2]]


async def test_errors_are_one_line_that_names_the_option(threads: list[str], database_url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    for graph, why in (
        ("nobody", "there is no agent of this name or file; known agents: assistant, curious, desk, polite"),
        ("nothing.py", "there is no file "),
        (str(broken), "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("json:dumps", "this is function; expected an Agent"),
    ):
        done = await replay(threads[0], "--graph", graph, url=database_url)
        assert (done.status, done.out) == (2, ""), done
        assert done.err.startswith(f"Error: --graph={graph}: {why}"), done.err
        assert done.err.count("\n") == 1
        assert "AGENTS" not in done.err
    missing = await replay(threads[0], UNKNOWN, url=database_url)
    assert (missing.status, missing.out) == (1, "")
    assert missing.err.startswith(f"Error: There is no thread {UNKNOWN}.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        [UNKNOWN, "--agent", "desk"],
        ["--limit", "201"],
        ["--limit", "0"],
        ["--status", "busy"],
        ["--since", "yesterday"],
        ["--since", "2026-11-23T10:00:00Z", "--until", "2026-11-22T10:00:00Z"],
        [UNKNOWN] * 201,
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_wrong_usage_ends_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *arguments])

    assert ended.value.code == 2
