"""The audit on the command line: who did what, and that whoever reads there is recorded, too."""

import getpass
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.cli import main
from api.cli.bootstrap import here
from infrastructure.signing import new_key
from tests.integration.test_cli import UNKNOWN, conversation
from tests.support.command import terminal, threadfold

ME = getpass.getuser()


@pytest.fixture
async def thread(database_url: str) -> str:
    """Name the only thread of the database."""
    return await conversation(database_url)


async def recorded(owner: asyncpg.Connection) -> list[dict[str, Any]]:
    rows = await owner.fetch("SELECT actor, client, what, request, threads FROM reads ORDER BY id")
    return [{**row, "threads": [str(thread) for thread in row["threads"]]} for row in rows]


SHOWN: dict[str, tuple[Sequence[str], str]] = {
    "list": (["threads", "list", "--search", "2 + 3"], "list"),
    "show": (["threads", "show", "{thread}"], "summary"),
    "state": (["threads", "state", "{thread}", "--at-version", "3"], "state"),
    "events": (["threads", "events", "{thread}", "--json"], "events"),
    "diff": (["threads", "diff", "{thread}", "0"], "diff"),
    "replay": (["replay", "{thread}"], "replay"),
}


@pytest.mark.parametrize("name", SHOWN)
async def test_whoever_is_shown_a_thread_is_recorded(
    thread: str, database_url: str, owner: asyncpg.Connection, name: str
) -> None:
    arguments, what = SHOWN[name]
    done = await threadfold(*[argument.format(thread=thread) for argument in arguments], database_url=database_url)
    assert done.status == 0, done.err
    line = " ".join(f"'{argument}'" if " " in argument else argument for argument in ["threadfold", *arguments])
    assert await recorded(owner) == [
        {
            "actor": ME,
            "client": "threadfold",
            "what": what,
            "request": line.format(thread=thread),
            "threads": [thread],
        }
    ]


async def test_following_a_thread_is_recorded_when_it_begins(
    thread: str, database_url: str, owner: asyncpg.Connection
) -> None:
    async with terminal("threads", "tail", thread, "--after", "0", "--json", database_url=database_url) as seen:
        await seen.until("TurnCompleted")
        assert [(read["what"], read["threads"]) for read in await recorded(owner)] == [("stream", [thread])]
        seen.type("\x03")
        await seen.ended()


async def test_a_proof_is_recorded(thread: str, database_url: str, owner: asyncpg.Connection) -> None:
    key = new_key()[0]
    await threadfold("seals", "make", database_url=database_url, signing_key=key)
    assert (await threadfold("proof", thread, "3", database_url=database_url, signing_key=key)).status == 0
    assert [(read["what"], read["threads"]) for read in await recorded(owner)] == [("seal", []), ("proof", [thread])]


async def test_an_export_is_recorded_as_the_whole_log(
    thread: str, database_url: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    assert thread
    done = await threadfold("export", str(tmp_path / "log"), database_url=database_url)
    assert done.status == 0, done.err
    (read,) = await recorded(owner)
    assert (read["what"], read["threads"], read["actor"]) == ("export", [], ME)


async def test_what_shows_nothing_of_a_thread_is_not_recorded(
    thread: str, database_url: str, owner: asyncpg.Connection
) -> None:
    for arguments in (
        ["threads", "show", UNKNOWN],
        ["threads", "events", thread, "--after", "999"],
        ["projections", "list"],
        ["audit", "list"],
        ["audit", "reads"],
    ):
        await threadfold(*arguments, database_url=database_url)
    await threadfold("threads", "state", thread, database_url=database_url, audit_reads="false")
    assert await recorded(owner) == []


async def test_what_an_operator_does_and_a_search_without_results_are_recorded(
    thread: str, database_url: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    for arguments in (
        ["threads", "list", "--search", "unmentioned"],
        ["verify"],
        ["verify", thread],
        ["seals", "make"],
        ["projections", "drop", "usage"],
        ["import", str(tmp_path)],
    ):
        await threadfold(*arguments, database_url=database_url, signing_key=new_key()[0])
    assert [(read["what"], read["actor"], read["threads"]) for read in await recorded(owner)] == [
        ("list", ME, []),
        ("verify", ME, []),
        ("verify", ME, [thread]),
        ("seal", ME, []),
        ("drop", ME, []),
    ]


async def test_what_was_done_is_listed_with_who_did_it(thread: str, database_url: str) -> None:
    await threadfold("chat", stdin=b"hello\n", database_url=database_url)
    chatted = (await threadfold("audit", "list", "--actor", ME, "--json", database_url=database_url)).json["items"]
    everything = (await threadfold("audit", "list", "--json", database_url=database_url)).json["items"]
    of_thread = (await threadfold("audit", "list", "--thread", thread, "--json", database_url=database_url)).json
    command = chatted[0]["command"]
    of_command = (await threadfold("audit", "list", "--command", command, "--json", database_url=database_url)).json
    table = await threadfold("audit", "list", "--limit", "1", database_url=database_url)

    assert [(entry["by"], entry["client"]) for entry in chatted] == [("caller", "threadfold")]
    assert {entry["thread_id"] for entry in of_thread["items"]} == {thread} != {chatted[0]["thread_id"]}
    assert {entry["by"] for entry in of_command["items"]} == {"caller", "agent"}
    assert len(everything) == len(of_thread["items"]) + 2
    assert "TurnCompleted" in table.out
    assert re.match(r"There are more: --limit takes up to 1000, --cursor \S+ goes on\.", table.err)


async def test_who_has_read_is_listed_and_filtered(thread: str, database_url: str) -> None:
    async def reads(*arguments: str) -> list[str]:
        found = (await threadfold("audit", "reads", "--json", *arguments, database_url=database_url)).json["items"]
        return [read["what"] for read in found]

    await threadfold("threads", "state", thread, database_url=database_url)
    await threadfold("threads", "events", thread, database_url=database_url)
    first = (await threadfold("audit", "reads", "--limit", "1", "--json", database_url=database_url)).json
    table = await threadfold("audit", "reads", database_url=database_url)

    assert await reads() == ["events", "state"]
    assert await reads("--what", "state") == await reads("--cursor", first["next_cursor"]) == ["state"]
    assert await reads("--thread", thread, "--actor", ME, "--from", first["items"][0]["at"]) == ["events"]
    assert await reads("--to", first["items"][0]["at"]) == ["state"]
    assert (await threadfold("audit", "reads", "--actor", "nobody", database_url=database_url)).out.startswith(
        "Nothing matches"
    )
    assert await reads("--actor", "nobody") == await reads("--thread", UNKNOWN) == []
    assert re.search(rf"^\d{{4}}-\S+ \S+ +{ME} +threadfold +state +{thread} +", table.out, re.MULTILINE)


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no name"), ImportError("pwd")], ids=repr)
def test_where_the_system_knows_no_name_there_is_no_actor(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise error

    assert here().actor == ME
    monkeypatch.setattr(getpass, "getuser", nameless)
    assert (here().actor, here().client) == (None, "threadfold")


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "reads", "--what", "gossip"],
        ["audit", "reads", "--thread", "x"],
        ["audit", "reads", "--from", "2026-11-23T10:00:00"],
        ["audit", "list", "--command", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("noun", ["list", "reads"])
async def test_a_cursor_of_something_else_is_told_by_its_option(database_url: str, noun: str) -> None:
    done = await threadfold("audit", noun, "--cursor", "*", database_url=database_url)
    assert (done.status, done.out) == (2, "")
    assert "--cursor" in done.err


async def test_a_range_that_ends_before_it_begins_is_told_by_its_end(database_url: str) -> None:
    ends = ("--from", "2026-11-23T10:00:00Z", "--to", "2026-11-22T10:00:00Z")
    done = await threadfold("audit", "reads", *ends, database_url=database_url)
    assert (done.status, done.out) == (2, "")
    assert "--to" in done.err
