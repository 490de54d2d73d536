"""`threadfold keys` and `tenants`, beside servers that obey them."""

import asyncio
import os
import sys
import time

import httpx

from tests.integration.test_cli_serve import serving
from tests.support.command import threadfold

REVOCATIONS = int(os.environ.get("REVOCATIONS", "3"))
"""Keys that are revoked, one after the other. More of them give a percentile: REVOCATIONS=200 prints it."""


async def created(database_url: str, *arguments: str) -> str:
    done = await threadfold("keys", "create", *arguments, database_url=database_url)
    assert done.status == 0, done.err
    return done.out.strip()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_first_key_closes_a_server_and_revoking_it_does_not_open_it(database_url: str) -> None:
    async with serving(database_url=database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert server.ready.endswith("open to this machine, without keys\n")
        assert (await client.get("/v1/threads")).status_code == 200
        token = await created(database_url, "laptop", "--scope", "all")
        async with asyncio.timeout(60):
            while (await client.get("/v1/threads")).status_code != 401:
                await asyncio.sleep(0.05)
        me = (await client.get("/v1/me", headers=bearer(token))).json()
        assert (me["principal"], "actor:impersonate" in me["scopes"]) == ("laptop", False)
    async with serving("--workers", "1", database_url=database_url) as server:
        assert "; callers need a key; " in server.ready
        key_id = token.split("_")[2]
        listed = await threadfold("keys", "list", database_url=database_url)
        assert key_id in listed.out
        assert token not in listed.out
        successor = await threadfold("keys", "rotate", key_id, "--json", database_url=database_url)
        assert f'"replaces": "{key_id}"' in successor.out
        revoked = await threadfold("keys", "revoke", key_id, database_url=database_url)
        assert revoked.out == f"Key {key_id} (laptop) is revoked.\n"
    async with serving(database_url=database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        for headers in ({}, bearer(token)):
            assert (await client.get("/v1/me", headers=headers)).status_code == 401


async def test_a_revoked_key_is_refused_by_other_processes(database_url: str) -> None:
    """A key is revoked at one process while another one has it in its cache."""
    admin = await created(database_url, "admin", "--scope", "admin", "--scope", "threads:read")
    took: list[float] = []
    async with (
        serving(database_url=database_url) as one,
        serving(database_url=database_url) as other,
        httpx.AsyncClient(base_url=one.url, headers=bearer(admin)) as by_admin,
        httpx.AsyncClient(base_url=other.url) as client,
    ):
        assert one.ready.endswith("callers need a key\n")
        for _ in range(REVOCATIONS):
            body = {"name": "short", "scopes": ["threads:read"]}
            token = (await by_admin.post("/v1/keys", json=body)).json()["token"]
            assert (await client.get("/v1/me", headers=bearer(token))).status_code == 200
            key_id = token.split("_")[2]
            assert (await by_admin.post(f"/v1/keys/{key_id}/revoke")).status_code == 200
            began = time.monotonic()
            async with asyncio.timeout(60):
                while (await client.get("/v1/me", headers=bearer(token))).status_code != 401:
                    await asyncio.sleep(0.01)
            took.append(time.monotonic() - began)
    if len(took) >= 100:
        sys.stderr.write(f"p50 {sorted(took)[len(took) // 2]:.2f} s, p99 {sorted(took)[len(took) * 99 // 100]:.2f} s\n")


async def test_a_server_for_other_machines_says_in_one_line_what_it_needs(database_url: str) -> None:
    refused = await threadfold("serve", "--host", "0.0.0.0", "--port", "0", database_url=database_url)
    assert refused.status == 2
    assert refused.err.count("\n") == 1
    assert "threadfold keys create NAME" in refused.err
    async with serving("--host", "0.0.0.0", database_url=database_url, auth="required") as server:
        assert server.ready.endswith("closed: there is no key yet. Create one: threadfold keys create NAME\n")


async def test_tenants_are_made_and_suspended(database_url: str) -> None:
    for arguments, status, said in (
        (("tenants", "create", "acme"), 0, "Tenant acme: active.\n"),
        (("tenants", "create", "acme"), 1, "Error: There is a tenant 'acme' already.\n"),
        (("keys", "create", "app", "--tenant", "nowhere"), 1, "Error: There is no tenant 'nowhere'."),
        (("tenants", "create", "A B"), 1, "Error: name: must be"),
        (("tenants", "suspend", "acme"), 0, "Tenant acme: suspended since"),
        (("tenants", "resume", "acme"), 0, "Tenant acme: active.\n"),
        (("tenants", "resume", "nowhere"), 1, "Error: There is no tenant 'nowhere'."),
    ):
        done = await threadfold(*arguments, database_url=database_url)
        assert done.status == status, (arguments, done)
        assert (done.err if status else done.out).startswith(said), (arguments, done)
    listed = await threadfold("tenants", "list", database_url=database_url)
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "acme", "default"]
