"""Seals and proofs on the command line, in real processes on a real database."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infrastructure.settings import CHECKOUT
from tests.integration.test_cli import conversation
from tests.support.command import COMMAND, environment, threadfold
from tests.support.seals import outsider


@pytest.fixture
async def thread(database_url: str) -> str:
    """Name the only thread of the database."""
    return await conversation(database_url)


async def new_key() -> tuple[str, str]:
    """Make a key as a person would; return the setting and the public key."""
    done = await threadfold("seals", "key", database_url="memory://")
    found = re.fullmatch(r"# Public key: (\S+), key id: [0-9a-f]{32}\nSIGNING_KEY=(\S+)\n", done.out)
    assert found
    return found[2], found[1]


async def test_a_log_is_sealed_checked_and_proved(thread: str, database_url: str, tmp_path: Path) -> None:
    key, public = await new_key()
    with_key: dict[str, Any] = {"database_url": database_url, "signing_key": key}

    made = await threadfold("seals", "make", **with_key)
    again = await threadfold("seals", "make", **with_key)
    listed = (await threadfold("seals", "list", "--json", **with_key)).json["items"]
    table = await threadfold("seals", "list", **with_key)
    checked = await threadfold("seals", "check", **with_key)
    verified = await threadfold("verify", **with_key)
    proof = await threadfold("proof", thread, "3", database_url=database_url)

    assert re.fullmatch(rf"Seal 1 covers \d+ events, root {listed[0]['root']}\.\n", made.out)
    assert again.out == "There are no new events since the last seal.\n"
    assert re.search(rf"^1 .* {listed[0]['key_id'][:8]} +{listed[0]['root'][:40]}", table.out, re.MULTILINE)
    assert checked.out == f"Checked 1 seal, {listed[0]['events']} events covered: no problem found.\n"
    assert ", 1 seal in " in verified.out
    assert outsider(proof.json, "--public-key", public, file=tmp_path / "p.json")[0] == 0
    assert proof.json["event"]["thread_id"] == thread


async def test_mended_heads_hide_nothing_from_verify(thread: str, database_url: str, owner: asyncpg.Connection) -> None:
    key, public = await new_key()
    await threadfold("seals", "make", database_url=database_url, signing_key=key)
    await owner.execute(
        """ALTER TABLE events DISABLE TRIGGER append_only;
           DELETE FROM events WHERE version = (SELECT max(version) FROM events);
           UPDATE threads AS t SET version = e.version, hash = e.hash, at = e.recorded_at
             FROM (SELECT * FROM events ORDER BY version DESC LIMIT 1) AS e;
           UPDATE slices AS s SET head = e.position
             FROM (SELECT * FROM events ORDER BY version DESC LIMIT 1) AS e WHERE e.slice = s.slice"""
    )

    whole = await threadfold("verify", "--json", database_url=database_url)
    one = await threadfold("verify", thread, database_url=database_url)
    checked = await threadfold("seals", "check", "--public-key", public, database_url=database_url)
    sealed = await threadfold("seals", "make", database_url=database_url, signing_key=key)

    assert (whole.status, one.status, checked.status, sealed.status) == (1, 0, 1, 1)
    (problem,) = whole.json["problems"]
    assert problem.startswith("Seal 1 covers ")
    assert checked.out.startswith(problem)
    assert sealed.err.startswith("Error: Slice ")


async def test_a_proof_of_a_changed_event_is_printed_and_does_not_hold(
    thread: str, database_url: str, owner: asyncpg.Connection
) -> None:
    key, _ = await new_key()
    await threadfold("seals", "make", database_url=database_url, signing_key=key)
    await owner.execute(
        "ALTER TABLE events DISABLE TRIGGER append_only; UPDATE events SET type = 'X' WHERE version = 2"
    )

    proof = await threadfold("proof", thread, "2", database_url=database_url)

    assert (proof.status, outsider(proof.json)[0]) == (1, 1)
    assert proof.err.startswith("This proof is invalid")


async def test_what_cannot_be_done_is_told_in_one_line(thread: str, database_url: str) -> None:
    key, public = await new_key()
    other, _ = await new_key()
    cases = {
        ("seals", "make"): "Error: SIGNING_KEY is not set",
        ("proof", thread, "1"): f"Error: No seal covers version 1 of the thread {thread} yet.",
        ("proof", thread, "999"): f"Error: The thread {thread} has versions 1 to ",
        ("proof", "018f0000-0000-7000-8000-000000000000", "1"): "Error: There is no thread 018f0000",
        ("seals", "check", "7"): "Error: There is no seal 7. The log has no seals yet.",
    }
    for arguments, expected in cases.items():
        done = await threadfold(*arguments, database_url=database_url)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(expected)
        assert done.err.count("\n") == 1
    await threadfold("seals", "make", database_url=database_url, signing_key=key)
    changed = await threadfold("seals", "check", database_url=database_url, signing_key=other)
    assert (changed.status, "trusted keys: " in changed.out) == (1, True)
    assert (await threadfold("seals", "check", "1", "--public-key", public, database_url=database_url)).status == 0
    assert (await threadfold("seals", "check", "--public-key", "x", database_url=database_url)).status == 2
    told = await threadfold("seals", "make", database_url=database_url, signing_key=other)
    assert "If you changed the key, run: threadfold seals make --new-key" in told.err
    taken = await threadfold("seals", "make", "--new-key", database_url=database_url, signing_key=other)
    assert taken.out.startswith("Seal 2 covers ")
    bad = await threadfold("seals", "list", database_url=database_url, signing_key="s3cret")
    assert (bad.status, bad.err.count("\n"), "s3cret" in bad.err) == (2, 1, False)
    assert bad.err.startswith("Error: SIGNING_KEY=(hidden): ")


async def test_workers_seal_what_is_new_and_do_not_get_in_each_others_way(
    thread: str, database_url: str, owner: asyncpg.Connection
) -> None:
    assert thread
    key, public = await new_key()
    settings = environment(database_url=database_url, signing_key=key, seal_every=1)
    workers = [
        await asyncio.create_subprocess_exec(
            *COMMAND, "worker", cwd=CHECKOUT, env=settings, stdout=asyncio.subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    try:
        for number in (1, 2):
            async with asyncio.timeout(60):
                while await owner.fetchval("SELECT count(*) FROM seals") < number:
                    await asyncio.sleep(0.1)
            await conversation(database_url)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert {await worker.wait() for worker in workers} == {0}
    checked = await threadfold("seals", "check", "--public-key", public, database_url=database_url)
    assert checked.status == 0
