"""Limits on the command line: set, shown and lifted."""

import getpass

from tests.integration.test_cli import conversation
from tests.support.command import threadfold

ME = getpass.getuser()


async def test_limits_are_set_shown_and_lifted(database_url: str) -> None:
    await conversation(database_url)
    nothing = await threadfold("limits", "list", database_url=database_url)
    assert (nothing.status, nothing.out) == (0, "Nothing is limited.\n")
    done = await threadfold("limits", "set", "turn=500", "lifetime=100000,2.5usd", "--json", database_url=database_url)
    assert done.status == 0, done.err
    (scope,) = done.json["scopes"]
    turn, lifetime = scope["limits"]
    assert (scope["actor"], turn["tokens"], turn["cost_usd"], turn["now"]) == (ME, 500, None, None)
    assert (lifetime["tokens"], lifetime["cost_usd"]) == (100_000, 2.5)
    assert lifetime["now"]["spent"]["tokens"] > 0, "without the server, the read models are brought up to date first"
    await threadfold(
        "limits", "set", "day=1", "--agent", "assistant", "--model", "m", "--warn-at", "1", database_url=database_url
    )
    shown = (await threadfold("limits", "list", database_url=database_url)).out
    assert all(words in shown for words in ("100,000, $2.5", "assistant", "turn", "lifetime"))
    await threadfold("limits", "set", database_url=database_url)
    (left,) = (await threadfold("limits", "list", "--json", database_url=database_url)).json["scopes"]
    assert (left["agent"], left["model"], left["limits"][0]["warn_at"]) == ("assistant", "m", 1)
    told = (await threadfold("limits", "history", database_url=database_url)).out.splitlines()
    assert all(words in line for words, line in zip(("lifted", "day: 1", "turn: 500; lifetime"), told[1:], strict=True))


async def test_what_is_no_limit_is_bad_use(database_url: str) -> None:
    for arguments in (
        ["week=5"],
        ["day="],
        ["day=5tokens"],
        ["day=0"],
        ["day=5", "day=6"],
        ["day=5", "--agent", "nobody"],
        ["day=5", "--warn-at", "0"],
        ["day=99999999usd"],
    ):
        done = await threadfold("limits", "set", *arguments, database_url=database_url)
        assert (done.status, done.out) == (2, ""), arguments
        assert "Traceback" not in done.err
    assert (await threadfold("limits", "history", "--json", database_url=database_url)).json == []
