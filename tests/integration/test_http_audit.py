"""Seals, proofs and verification over HTTP, and the checks of proofs without Threadfold."""

import asyncio
import base64
import copy
import json
import runpy
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from domain.ids import Position, Slice
from infrastructure.signing import new_key
from tests.support.http import Api, running_api
from tests.support.seals import SCRIPT, outsider

KEY, SIGNER = new_key()
NOBODY = new_key()[1]


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(log_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=log_url, signing_key=KEY, seal_every=1) as api:
        yield api


async def proof_of(api: Api, thread_id: str, version: int) -> dict[str, Any]:
    """Ask until there is a proof."""
    async with asyncio.timeout(60):
        while (response := await api.get(f"/v1/threads/{thread_id}/events/{version}/proof")).status_code == 404:
            await asyncio.sleep(0.1)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def forked(api: Api) -> tuple[str, str]:
    """Have a thread with a turn, a fork of it at version 4, and a fork of that."""
    thread_id = await api.opened(values={"text": 'naïve 👍 "quoted"\n'})
    await api.turn(thread_id, "/calculate 2 + 3")
    fork = (await api.post(f"/v1/threads/{thread_id}/fork", json={"at_version": 4})).json()["thread_id"]
    again = (await api.post(f"/v1/threads/{fork}/fork", json={"values": {"a": 1}})).json()["thread_id"]
    return thread_id, str(again)


def public_key(api: Api) -> str:
    signer = api.service.runtime.sealer.signer
    assert signer is not None
    assert signer.key_id == SIGNER.key_id
    return base64.b64encode(signer.public_key).decode()


async def test_an_event_is_proved_to_a_holder_of_the_public_key(api: Api, tmp_path: Path) -> None:
    thread_id, fork = await forked(api)
    last = (await api.get(f"/v1/threads/{fork}")).json()["version"]
    await proof_of(api, fork, last)  # then all of them are sealed
    for thread, version in ((thread_id, 1), (thread_id, 7), (fork, 2), (fork, 5), (fork, last)):
        proof = await proof_of(api, thread, version)
        assert proof["event"]["version"] == version
        status, said = outsider(proof, "--public-key", public_key(api), file=tmp_path / "proof.json")
        assert (status, said.startswith("Proved, as sealed ")) == (0, True)
        event = proof["event"]
        assert said.split("\n")[1:4] == [event["tenant"], event["thread_id"], str(version)]
        assert said.endswith(f"\n{event['payload']}\n"), "what was proved is what is to be read"
    assert proof["event"]["thread_id"] == fork
    assert (await proof_of(api, fork, 2))["event"]["thread_id"] == thread_id
    assert outsider(proof)[0] == 0, "from standard input, with the document's own key"
    twice = json.dumps(proof).replace('"payload": ', '"payload": "forged", "payload": ', 1)
    assert outsider(twice) == (1, "Not proved: ValueError('a member is there twice')\n")
    more = {**proof, "event": {**proof["event"], "note": "forged"}}
    assert outsider(more) == (1, "Not proved: ValueError('the fields do not give the hash')\n")
    wrong = base64.b64encode(NOBODY.public_key).decode()
    assert outsider(proof, "--public-key", wrong) == (
        1,
        "Not proved: ValueError('wrong key')\n",
    )


def mutations(proof: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Change each field of a proof in turn, and take each away."""
    places = [(name,) for name in proof] + [("event", n) for n in proof["event"]] + [("seal", n) for n in proof["seal"]]
    for place in places:
        changed = copy.deepcopy(proof)
        inner = changed if len(place) == 1 else changed[place[0]]
        value = inner.pop(place[-1])
        yield f"without {place}", copy.deepcopy(changed)
        if isinstance(value, dict):
            continue
        for other in others(value):
            inner[place[-1]] = other
            yield f"{place}: {other}", copy.deepcopy(changed)


def others(value: Any) -> list[Any]:
    match value:
        case int():
            return [value + 1, value - 1, -value, value + 1024, None, str(value) + "0"]
        case []:
            return [["00" * 32]]
        case list():
            return [value[:-1], [*value, value[0]], [swapped(value[0]), *value[1:]], value[::-1] if value[1:] else []]
        case _:
            return [swapped(value), value + "0", value[1:], "", None]


def swapped(text: str) -> str:
    """Exchange the first character for one that may stand there."""
    return ("1" if text[0] != "1" else "2") + text[1:]


async def test_a_proof_with_any_field_changed_proves_nothing(api: Api) -> None:
    _, fork = await forked(api)
    last = (await api.get(f"/v1/threads/{fork}")).json()["version"]
    proof = await proof_of(api, fork, last)
    check = runpy.run_path(str(SCRIPT))["check"]
    assert check(proof, None)
    believed = []
    for name, changed in mutations(proof):
        try:
            check(changed, None)
        except Exception:  # noqa: BLE001
            continue
        believed.append(name)
    assert believed == []
    assert outsider({**proof, "position": proof["position"] + 1})[0] == 1
    assert outsider([])[0] == 1


async def test_an_event_that_is_not_sealed_yet_gets_404_that_says_when_it_will_be(log_url: str) -> None:
    async with running_api(database_url=log_url, signing_key=KEY) as api:
        for _ in range(2):  # the one seal of this hour is made at the start, and may cover the first thread
            thread_id = await api.opened()
            response = await api.get(f"/v1/threads/{thread_id}/events/1/proof")
            if response.status_code == 404:
                break
        assert response.status_code == 404
        assert response.json()["type"] == "urn:threadfold:not-sealed-yet"
        assert "The next seal is due at 20" in response.json()["detail"]
        assert response.json()["errors"][0]["field"] == "version"
    async with running_api(database_url=log_url) as api:
        thread_id = await api.opened()
        response = await api.get(f"/v1/threads/{thread_id}/events/1/proof")
        assert "SIGNING_KEY is not set" in response.json()["detail"]


async def test_seals_are_listed_the_last_first_and_shown(api: Api) -> None:
    for _ in range(3):
        thread_id = await api.opened()
        await proof_of(api, thread_id, 1)
    listed, cursor = [], None
    while True:
        page = (await api.get("/v1/seals", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        listed += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [seal["number"] for seal in listed] == list(range(len(listed), 0, -1))
    assert [seal["events"] for seal in listed] == sorted((seal["events"] for seal in listed), reverse=True)
    whole = (await api.get("/v1/seals/1")).json()
    assert {name: value for name, value in whole.items() if name != "sizes"} == listed[-1]
    assert (len(whole["sizes"]), sum(whole["sizes"])) == (1024, whole["events"])
    missing = await api.get("/v1/seals/999")
    assert (missing.status_code, missing.json()["errors"][0]["field"]) == (404, "number")


BAD: dict[str, tuple[str, str, int, str]] = {
    "version is a word": ("GET", "/v1/threads/{thread}/events/one/proof", 400, "version"),
    "version is zero": ("GET", "/v1/threads/{thread}/events/0/proof", 400, "version"),
    "version is beyond any": ("GET", "/v1/threads/{thread}/events/99999999999/proof", 400, "version"),
    "version is not there": ("GET", "/v1/threads/{thread}/events/99/proof", 404, "version"),
    "thread is not there": ("GET", f"/v1/threads/{uuid4()}/events/1/proof", 404, "thread_id"),
    "thread is no UUID": ("POST", "/v1/threads/x/verify", 400, "thread_id"),
    "thread to verify is not there": ("POST", f"/v1/threads/{uuid4()}/verify", 404, "thread_id"),
    "seal is a word": ("GET", "/v1/seals/last", 400, "number"),
    "seal is negative": ("GET", "/v1/seals/-1", 400, "number"),
    "seal is huge": ("GET", f"/v1/seals/{2**63}", 400, "number"),
    "cursor of seals is garbage": ("GET", "/v1/seals?cursor=*", 400, "cursor"),
    "cursor of seals is zero": ("GET", "/v1/seals?cursor=MA", 400, "cursor"),
    "cursor of seals is huge": ("GET", "/v1/seals?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", 400, "cursor"),
    "parameter of verify": ("POST", "/v1/verify?fast=1", 400, "fast"),
}


async def test_bad_input_gets_a_problem_that_names_the_field(api: Api) -> None:
    thread = await api.opened()
    for name, (method, path, status, field) in BAD.items():
        response = await api.request(method, path.format(thread=thread))
        assert (response.status_code, response.json()["errors"][0]["field"]) == (status, field), name


async def test_the_log_and_a_thread_are_verified(api: Api) -> None:
    thread_id, fork = await forked(api)
    await proof_of(api, fork, (await api.get(f"/v1/threads/{fork}")).json()["version"])

    whole = (await api.post("/v1/verify")).json()
    one = (await api.post(f"/v1/threads/{thread_id}/verify")).json()

    assert whole["problems"] == one["problems"] == []
    assert (whole["threads"], one["threads"], whole["slices"], one["slices"]) == (3, 1, 1024, 0)
    assert whole["seals"] >= 1
    assert whole["sealed_events"] == whole["events"] > one["events"] > 0


async def test_one_verification_of_the_log_runs_at_a_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store = api.service.runtime.repository.store
    begun, go_on, slice_head = asyncio.Event(), asyncio.Event(), store.slice_head

    async def held_up(slice_: Slice) -> Position:
        begun.set()
        await go_on.wait()
        return await slice_head(slice_)

    monkeypatch.setattr(store, "slice_head", held_up)
    first = asyncio.create_task(api.post("/v1/verify"))
    await begun.wait()
    refused = await api.post("/v1/verify")
    go_on.set()

    assert (refused.status_code, refused.json()["type"]) == (409, "urn:threadfold:verification-runs")
    assert (await first).status_code == 200
    assert (await api.post("/v1/verify")).status_code == 200


async def test_what_was_tampered_with_is_reported(database_url: str, owner: asyncpg.Connection) -> None:
    async with running_api(database_url=database_url, signing_key=KEY, seal_every=1) as api:
        thread_id, fork = await forked(api)
        await proof_of(api, fork, (await api.get(f"/v1/threads/{fork}")).json()["version"])
        await owner.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        await owner.execute("UPDATE events SET payload = '{}' WHERE thread_id = $1 AND version = 2", thread_id)

        whole = (await api.post("/v1/verify")).json()
        one = (await api.post(f"/v1/threads/{thread_id}/verify")).json()

        assert whole["problems"][0].startswith(f"{thread_id}: version 2 was changed after it was written")
        assert one["problems"] == whole["problems"][:1]
        assert outsider(await proof_of(api, thread_id, 2))[0] == 1
        assert outsider(await proof_of(api, thread_id, 3))[0] == 0, "its own hash covers what was there before"
