"""The command line, as a person and as a program use it: real processes, on a real database."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import click
import pytest

from api.cli import COMMANDS, main
from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.ids import ThreadId
from domain.thread.events import Limit
from infrastructure.settings import CHECKOUT, Settings
from tests.support.command import Done, environment, threadfold

NOWHERE = "postgresql://someone:s3cret@127.0.0.1:1/nothing"
UNKNOWN = "018f0000-0000-7000-8000-000000000000"


async def conversation(database_url: str) -> str:
    """Have a turn with a tool in a new thread, and name the thread."""
    settings = Settings(_env_file=None, database_url=database_url, llm_endpoint=None, agents=())  # type: ignore[call-arg]
    async with open_runtime(settings) as runtime, runtime.worker.working():
        service = Service(runtime)
        thread_id = ThreadId(runtime.new_id())
        started = await service.start_turn(thread_id, "/calculate 2 + 3", Caller(), open_with="assistant")
        finished = await service.turn_end(started.outcome, started.turn_id)
    assert finished is not None
    assert finished.status == "completed"
    return str(thread_id)


@pytest.fixture
async def thread(database_url: str) -> str:
    """Name the only thread of the database."""
    return await conversation(database_url)


# --- help and usage


def test_every_command_is_there_and_has_help() -> None:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


def test_help_needs_nothing_heavy() -> None:
    script = (
        "import sys; from api.cli import main; main(['--help'], standalone_mode=False);"
        "sys.exit(','.join(sys.modules.keys() & {'sqlalchemy', 'litestar', 'pydantic', 'asyncpg', 'rich', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert (done.stderr.strip(), "verify" in done.stdout) == ("", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["threads", "show", "not-a-uuid"],
        ["threads", "list", "--limit", "0"],
        ["threads", "list", "--cursor", "%%%"],
        ["turns", "list", "--outcome", "fine"],
        ["turns", "list", "--min-cost-usd", "-1"],
        ["turns", "list", "--created-since", "yesterday"],
        ["turns", "list", "--sort", "tokens"],
        ["threads", "state", UNKNOWN, "--at-version", "1", "--at-time", "2026-11-23T10:00:00Z"],
        ["threads", "state", UNKNOWN, "--at-time", "2026-11-23T10:00:00"],
        ["threads", "state", UNKNOWN, "--at-time", "yesterday"],
        ["threads", "state", UNKNOWN, "--at-time", "0001-01-01T00:00:00+14:00"],
        ["threads", "state", UNKNOWN, "--at-time", "9999-12-31T23:59:59-14:00"],
        ["threads", "state", UNKNOWN, "--at-version", "99999999999999"],
        ["threads", "show", UNKNOWN, "--at-version", "1", "--at-time", "2026-11-23T10:00:00Z"],
        ["threads", "budget", UNKNOWN, "--at-version", "1", "--at-time", "2026-11-23T10:00:00Z"],
        ["threads", "diff", UNKNOWN],
        ["threads", "diff", UNKNOWN, "yesterday"],
        ["threads", "diff", UNKNOWN, "1", "99999999999"],
        ["threads", "diff", UNKNOWN, "1", "2026-11-23T10:00:00"],
        ["threads", "events", UNKNOWN, "--after", "99999999999999"],
        ["graph", "--mermaid", "--json"],
        ["serve", "--port", "65536"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["verify"]], ids=" ".join)
async def test_a_database_that_is_not_there_is_told_in_one_line_without_its_password(command: Sequence[str]) -> None:
    done = await threadfold(*command, database_url=NOWHERE)

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error: PostgreSQL at 127.0.0.1:1/nothing cannot be used: ")
    assert done.err.count("\n") == 1
    assert "s3cret" not in done.err


@pytest.mark.parametrize("command", [["threads", "list", "--json"], ["migrate"]], ids=" ".join)
async def test_nothing_can_be_read_from_another_process_s_memory(command: Sequence[str]) -> None:
    done = await threadfold(*command, database_url="memory://")

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error: DATABASE_URL is memory://, which keeps nothing between processes")


# --- threads


async def test_threads_are_listed_for_people_and_for_programs(thread: str, database_url: str) -> None:
    table = await threadfold("threads", "list", database_url=database_url)
    document = (await threadfold("threads", "list", "--json", database_url=database_url)).json

    assert re.search(rf"^{thread}  idle    \d+ +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  \d{{4}}", table.out, re.MULTILINE)
    assert [(entry["thread_id"], entry["status"]) for entry in document["items"]] == [(thread, "idle")]
    assert document["next_cursor"] is None


async def test_a_list_may_have_only_threads_whose_last_turn_ended_in_some_way(thread: str, database_url: str) -> None:
    completed = await threadfold("threads", "list", "--outcome", "completed", "--json", database_url=database_url)
    failed = await threadfold("threads", "list", "--reason", "empty_answer", database_url=database_url)

    assert [entry["thread_id"] for entry in completed.json["items"]] == [thread]
    assert failed.out == "There are no threads.\n"


async def test_a_list_goes_on_at_its_cursor(thread: str, database_url: str) -> None:
    later = await conversation(database_url)

    first = (await threadfold("threads", "list", "--limit", "1", "--json", database_url=database_url)).json
    rest = await threadfold("threads", "list", "--cursor", first["next_cursor"], "--json", database_url=database_url)

    assert [entry["thread_id"] for entry in first["items"]] == [later]
    assert [entry["thread_id"] for entry in rest.json["items"]] == [thread]


async def test_turns_are_listed_for_people_and_for_programs(thread: str, database_url: str) -> None:
    table = await threadfold("turns", "list", "--tool", "calculate", database_url=database_url)
    document = (await threadfold("turns", "list", "--thread", thread, "--json", database_url=database_url)).json
    (turn,) = document["items"]

    assert (turn["thread_id"], turn["outcome"], turn["tools"]) == (thread, "completed", ["calculate"])
    shown = rf"^{turn['turn_id']}  .*\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  completed .* /calculate 2"
    assert re.search(shown, table.out, re.MULTILINE), table.out
    for filters in (["--outcome", "failed"], ["--min-cost-usd", "1"], ["--min-duration-ms", "600000"]):
        nothing = await threadfold("turns", "list", *filters, database_url=database_url)
        assert nothing.out == "There are no such turns.\n"
    refused = await threadfold(
        "turns", "list", "--min-duration-ms", "5", "--max-duration-ms", "4", database_url=database_url
    )
    assert refused.status == 2
    assert "--max-duration-ms" in refused.err


async def test_a_thread_is_summarised(thread: str, database_url: str) -> None:
    table = await threadfold("threads", "show", thread, database_url=database_url)
    document = (await threadfold("threads", "show", thread, "--json", database_url=database_url)).json

    assert re.search(r"^Turns +1$", table.out, re.MULTILINE)
    assert re.search(r"^Last event +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", table.out, re.MULTILINE)
    assert (document["graph"], document["turns"], document["status"]) == ("assistant", 1, "idle")


async def test_events_are_read_in_pages_one_to_a_line(thread: str, database_url: str) -> None:
    table = await threadfold("threads", "events", thread, "--limit", "3", database_url=database_url)
    page = ("threads", "events", thread, "--after", "3", "--json")
    first = (await threadfold(*page, "--limit", "2", database_url=database_url)).json
    rest = (await threadfold(*page, database_url=database_url)).json

    shown = [line.split()[3] for line in table.out.splitlines()[1:]]
    assert shown == ["ThreadOpened", "TurnStarted", "MessageAppended"]
    assert max(map(len, table.out.splitlines())) <= 100
    assert table.err == "There are more: --after 3\n"
    assert (first["items"], first["next_after"]) == (rest["items"][:2], 5)
    assert [event["version"] for event in rest["items"]] == list(range(4, rest["items"][-1]["version"] + 1))
    assert rest["items"][-1]["type"] == "TurnCompleted"
    assert rest["next_after"] is None


async def test_state_is_shown_now_at_a_version_and_at_an_instant(thread: str, database_url: str) -> None:
    async def state(*arguments: str) -> Done:
        return await threadfold("threads", "state", thread, *arguments, database_url=database_url)

    now, then = (await state("--json")).json, (await state("--at-version", "3", "--json")).json
    instant = (await state("--at-time", then["recorded_at"], "--json")).json
    table = await state()

    assert (now["status"], then["status"], then["version"]) == ("idle", "running", 3)
    assert instant["version"] >= then["version"]
    assert "tool calculate  5" in table.out
    assert '→ calculate {"expression":"2 + 3"}' in table.out


async def test_a_thread_is_summarised_as_it_was(thread: str, database_url: str) -> None:
    then = await threadfold("threads", "show", thread, "--at-version", "3", "--json", database_url=database_url)
    now = await threadfold(
        "threads", "show", thread, "--at-time", "9999-01-01T00:00:00Z", "--json", database_url=database_url
    )

    assert (then.json["version"], then.json["status"], now.json["status"]) == (3, "running", "idle")


async def test_a_budget_is_shown_now_and_as_it_was(thread: str, database_url: str) -> None:
    settings = Settings(_env_file=None, database_url=database_url, llm_endpoint=None, agents=())  # type: ignore[call-arg]
    async with open_runtime(settings) as runtime:
        limits = Limit("hour", 1), Limit("lifetime", cost=2_500_000_000_000)
        await Service(runtime).set_budget(ThreadId(UUID(thread)), limits, Caller())

    async def budget(*arguments: str) -> Done:
        return await threadfold("threads", "budget", thread, *arguments, database_url=database_url)

    now, then = (await budget("--json")).json, (await budget("--at-version", "3", "--json")).json
    table, before = await budget("--at-version", str(now["version"])), await budget("--at-version", "1")

    assert ([limit["window"] for limit in now["limits"]], then["limits"]) == (["hour", "lifetime"], [])
    assert (then["windows"][0]["tokens"], then["version"]) == (0, 3)
    lines = [line.split() for line in table.out.splitlines()]
    assert ["Budget", "over"] in lines
    assert next(line for line in lines if line[:1] == ["hour"])[-2:] == ["0", "tokens"]
    assert ["lifetime", "ever", f"{now['windows'][-1]['tokens']:,}", "$0", "$2.5"] in lines
    assert "nothing limits it" in before.out


async def test_a_diff_tells_what_happened_between_versions_and_instants(thread: str, database_url: str) -> None:
    async def diff(*arguments: str) -> Done:
        return await threadfold("threads", "diff", thread, *arguments, database_url=database_url)

    whole, table = (await diff("0", "--json")).json, await diff("2", "8", "--limit", "3")
    begin = whole["happened"]["items"][0]["recorded_at"]
    since = (await diff(begin, "9999-01-01T00:00:00Z", "--json")).json
    backwards, beyond = await diff("5", "3"), await diff("1", "999")

    assert (whole["from"]["status"], whole["to"]["status"], whole["changes"]["turns"]) == ("unopened", "idle", 1)
    assert whole["happened"]["items"][2]["sentence"] == 'The user said "/calculate 2 + 3"'
    assert since["happened"]["items"] == [one for one in whole["happened"]["items"] if one["recorded_at"] > begin]
    assert re.search(r'^3 +\d{4}-\S+ \S+  The user said "/calculate 2 \+ 3"$', table.out, re.MULTILINE)
    assert re.search(r"^Messages +1 user, 1 assistant, 1 tool$", table.out, re.MULTILINE)
    assert re.search(r"^Tool calls +calculate: 1 requested, 1 succeeded$", table.out, re.MULTILINE)
    assert table.err == f"There are more: threadfold threads diff {thread} 5 8\n"
    assert backwards.err == "Error: from: is at version 5, after the end at version 3\n"
    assert beyond.err.startswith("Error: to: the thread has versions 1 to ")


async def test_what_is_not_there_is_told_in_one_line(thread: str, database_url: str) -> None:
    unknown = await threadfold("threads", "show", UNKNOWN, database_url=database_url)
    beyond = await threadfold("threads", "state", thread, "--at-version", "999", database_url=database_url)

    assert (unknown.status, beyond.status) == (1, 1)
    assert unknown.err == f"Error: There is no thread {UNKNOWN}. `threadfold threads list` shows them.\n"
    assert beyond.err.startswith("Error: at_version: the thread has versions 1 to ")


# --- verify


async def test_verify_says_what_it_checked(thread: str, database_url: str) -> None:
    everything = await threadfold("verify", database_url=database_url)
    one = (await threadfold("verify", thread, "--json", database_url=database_url)).json
    unknown = await threadfold("verify", UNKNOWN, database_url=database_url)

    assert everything.status == 0
    said = r"Checked 1 thread, (\d+) events, 1,024 slices in \d+\.\d s: no problem found\.\n"
    assert (counted := re.fullmatch(said, everything.out))
    assert (one["threads"], one["events"], one["problems"]) == (1, int(counted[1]), [])
    assert (unknown.status, unknown.out) == (1, "")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ('UPDATE events SET payload = \'{"graph":"other"}\' WHERE version = 1', "version 1 was changed"),
        ("DELETE FROM events WHERE version = 4", "version 4 is missing"),
        ("DELETE FROM events WHERE version > 4", "are missing"),
        ("DELETE FROM events", "versions 1 to "),
    ],
)
async def test_verify_finds_what_a_superuser_did(
    thread: str, database_url: str, owner: asyncpg.Connection, change: str, found: str
) -> None:
    await owner.execute(f"ALTER TABLE events DISABLE TRIGGER append_only; {change}")

    report = await threadfold("verify", "--json", database_url=database_url)
    one = await threadfold("verify", thread, database_url=database_url)

    assert (report.status, one.status) == (1, 1)
    assert any(problem.startswith(f"{thread}: ") and found in problem for problem in report.json["problems"])
    assert found in one.out


# --- migrate and graph


async def test_migrate_says_where_the_database_is(empty_database_url: str) -> None:
    first = await threadfold("migrate", database_url=empty_database_url)
    second = await threadfold("migrate", database_url=empty_database_url)

    revision = first.out.split()[1]
    assert first.out.startswith(f"Revision {revision} (was none before): PostgreSQL at ")
    assert second.out.startswith(f"Revision {revision} (is the newest already): ")


async def test_graphs_are_shown_without_a_database() -> None:
    listed = await threadfold("graph", "--json", database_url=NOWHERE)
    drawn = await threadfold("graph", "--mermaid", database_url=NOWHERE)
    table = await threadfold("graph", "assistant", database_url=NOWHERE, columns=80)

    assert drawn.out.startswith("flowchart TD\n")
    assert [(graph["name"], graph["mermaid"]) for graph in listed.json] == [("assistant", drawn.out)]
    assert "done → finalize_turn" in " ".join(table.out.split())
    assert max(map(len, table.out.splitlines())) <= 80


def test_the_launcher_runs_threadfold_in_a_folder_with_an_api_and_agents_of_its_own(tmp_path: Path) -> None:
    installer = (CHECKOUT / "requirements" / "install").read_text(encoding="utf-8")
    programs = tmp_path / "checkout" / ".venv" / "bin"
    elsewhere = tmp_path / "elsewhere"
    for folder in (programs, elsewhere / "api"):
        folder.mkdir(parents=True)
    (programs / "threadfold").write_text(installer.split("<<'END'\n")[1].split("END\n")[0], encoding="utf-8")
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    for program in programs.iterdir():
        program.chmod(0o755)
    (elsewhere / "api" / "__init__.py").write_text("raise SystemExit('the wrong api')", encoding="utf-8")
    agent = "from dataclasses import replace\nfrom domain.agents.assistant import assistant\n"
    agent += "agent = assistant()\nagent = replace(agent, graph=replace(agent.graph, name='mine'))\n"
    (elsewhere / "mine.py").write_text(agent, encoding="utf-8")

    done = subprocess.run(
        [programs / "threadfold", "graph"],
        cwd=elsewhere,
        env=environment(agents="mine:agent", pythonpath=CHECKOUT),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stderr, done.returncode) == ("", 0)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["GRAPH", "assistant", "mine"]


async def test_a_client_gets_the_databases_url(database_url: str) -> None:
    printed = await threadfold("database", database_url=database_url)
    assert (printed.status, printed.out.strip()) == (0, database_url)
    code = "import os, sys; print(os.environ['DATABASE_URL'] == sys.argv[1]); sys.exit(3)"
    ran = await threadfold("database", sys.executable, "-c", code, "{url}", database_url=database_url)
    assert (ran.status, ran.out) == (3, "True\n")
    missing = await threadfold("database", "no-such-client", database_url=database_url)
    assert missing.status == 1
    assert "no-such-client cannot be run" in missing.err
