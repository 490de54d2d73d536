"""Tokens of an OIDC issuer, which is a process of its own, at the running application."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from api.cli.supervise import access_of
from api.http.caller import Caller
from domain.identity.principal import Principal
from domain.identity.scopes import SCOPES
from domain.ids import Tenant
from infrastructure import oidc_keys
from infrastructure.settings import BadSetting, Settings, load_settings
from tests.e2e.server_process import ServerProcess, free_port
from tests.support.http import Api, running_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


class Issuer:
    """The issuer's process, and what a person at its desk can do."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def ask(self, path: str, **body: object) -> Json:
        answer = await self._client.post(path, json=body)
        found: Json = answer.json() if answer.content else {}
        return found

    async def token(self, header: Json | None = None, **claims: object) -> str:
        now = time.time()
        usual = {"iss": self.url, "aud": "threadfold", "sub": "ada", "iat": now, "exp": now + 300}
        given = {**usual, "scope": "threads:read unknown:scope", **claims}
        kept = {name: value for name, value in given.items() if value is not ...}
        return str((await self.ask("/sign", header=header or {}, claims=json.dumps(kept)))["token"])

    async def count(self, path: str) -> int:
        return int((await self._client.get("/counts")).json().get(path, 0))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    port = free_port()
    log = tmp_path_factory.mktemp("issuer") / "log"
    running = ServerProcess(
        "tests.fakes.oidc_issuer", "--port", str(port), port=port, ready="/counts", log=log, settings={}
    )
    await running.start()
    yield running
    await running.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def issuer(process: ServerProcess) -> AsyncIterator[Issuer]:
    if not process.running:
        await process.start()
    async with httpx.AsyncClient(base_url=process.url, trust_env=False) as client:
        desk = Issuer(process.url, client)
        await desk.ask("/behave", how="well")
        await desk.ask("/rotate", keep=False)
        yield desk


def serving(issuer: Issuer, **settings: object) -> Any:
    return running_api(
        **{"database_url": "memory://", "oidc_issuer": issuer.url, "oidc_audience": "threadfold", **settings}
    )


async def me(api: Api, token: str) -> httpx.Response:
    return await api.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


async def refused(api: Api, token: str, status: int = 401) -> str:
    answer = await me(api, token)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


async def test_a_token_has_its_principal_and_scopes_until_it_expires(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        token = await issuer.token(exp=int(time.time()) + 300)
        answer = await me(api, token)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["principal"], found["tenant"], found["scopes"]) == ("ada", "default", ["threads:read"])
        assert found["expires_at"]
        headers = {"Authorization": f"Bearer {token}"}
        assert (await api.get("/v1/threads", headers=headers)).status_code == 200
        assert (await api.post("/v1/threads", headers=headers, json={})).status_code == 403
        assert (await api.get("/v1/threads")).status_code == 401
        assert (await me(api, await issuer.token(aud=["other", "threadfold"], scope=["operate"]))).status_code == 200


async def test_each_kind_of_key_verifies(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        tokens = {}
        for algorithm in ("RS256", "EdDSA", "ES256"):
            await issuer.ask("/rotate", alg=algorithm)
            tokens[algorithm] = await issuer.token({"alg": algorithm})
        for algorithm, token in tokens.items():
            assert (await me(api, token)).status_code == 200, algorithm
    async with serving(issuer, oidc_algorithms=("ES256",)) as api:
        assert "`alg`" in await refused(api, tokens["RS256"])


WRONG: list[tuple[Json, Json, str]] = [
    ({}, {"aud": "other"}, "`aud`"),
    ({}, {"aud": ["other", 7]}, "`aud`"),
    ({}, {"aud": ...}, "`aud`"),
    ({}, {"iss": "https://elsewhere.example.com"}, "`iss`"),
    ({}, {"iss": ["x"]}, "`iss`"),
    ({}, {"exp": 1_000}, "`exp`"),
    ({}, {"exp": ...}, "`exp`"),
    ({}, {"exp": "2030"}, "`exp`"),
    ({}, {"exp": True}, "`exp`"),
    ({}, {"exp": 10**400}, "`exp`"),
    ({}, {"exp": -1}, "`exp`"),
    ({}, {"nbf": 4_000_000_000}, "`nbf`"),
    ({}, {"iat": 4_000_000_000}, "`iat`"),
    ({}, {"iat": []}, "`iat`"),
    ({}, {"sub": ""}, "`sub`"),
    ({}, {"sub": ...}, "`sub`"),
    ({}, {"sub": "a" * 4_000}, "`sub`"),
    ({}, {"sub": "a\x00b"}, "`sub`"),
    ({}, {"sub": "\ud800"}, "`sub`"),
    ({}, {"scope": 7}, "`scope`"),
    ({}, {"scope": ["threads:read", 7]}, "`scope`"),
    ({}, {"org": {"tenant": ["default"]}}, "`org.tenant`"),
    ({}, {"org": {"tenant": "Not A Tenant"}}, "`org.tenant`"),
    ({}, {"org": ...}, "`org.tenant`"),
    ({}, {"org": {"tenant": "missing"}}, "'missing' is unknown"),
    ({"alg": "none"}, {}, "`alg`"),
    ({"alg": "HS256"}, {}, "`alg`"),
    ({"kid": ""}, {}, "`kid`"),
    ({"kid": ["x"]}, {}, "`kid`"),
    ({"kid": "unknown"}, {}, "`kid`"),
    ({"typ": "logout+jwt"}, {}, "`typ`"),
    ({"crit": ["x"], "x": 1}, {}, "`crit`"),
]


async def test_tokens_with_a_wrong_claim_or_header_are_refused_by_its_name(issuer: Issuer) -> None:
    async with serving(issuer, oidc_tenant_claim="org.tenant") as api:
        right = {"org": {"tenant": "default"}}
        assert (await me(api, await issuer.token(**right))).status_code == 200
        for header, claims, named in WRONG:
            detail = await refused(api, await issuer.token(header, **{**right, **claims}))
            assert named in detail, (header, claims, detail)


async def test_the_public_key_is_no_secret(issuer: Issuer) -> None:
    await issuer.ask("/rotate", alg="RS256")
    async with serving(issuer) as api:
        assert (await me(api, await issuer.token({"alg": "RS256"}))).status_code == 200
        for algorithm in ("HS256", "none"):
            assert "`alg`" in await refused(api, await issuer.token({"alg": algorithm}))


async def test_texts_that_are_no_token_are_refused(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        token = await issuer.token()
        header, payload, signature = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        for text in ('{"exp": 1e400}', '{"exp": NaN}', "[]", "[" * 3_000, '{"sub": "a", "sub": "b"}'):
            assert await refused(api, (await issuer.ask("/sign", claims=text))["token"])
        more = base64.urlsafe_b64encode(json.dumps({**claims, "scope": "admin"}).encode()).rstrip(b"=").decode()
        for text in ("..", "a.b.c", f"{header}.{more}.{signature}", f"{header}.{payload}.", token[:-4], "%C3.b.c"):
            assert (await me(api, text)).status_code == 401, text
        assert await refused(api, f"{header}.{'a' * 9_000}.{signature}")
        assert (await me(api, token)).status_code == 200


async def test_keys_inside_of_a_token_are_ignored(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        assert (await me(api, await issuer.token())).status_code == 200
        own = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
        evil = f"{issuer.url}/elsewhere"
        assert "`kid`" in await refused(api, await issuer.token({"kid": "own", "jwk": own, "jku": evil, "x5u": evil}))
        assert (await me(api, await issuer.token({"jwk": own, "jku": evil, "x5u": evil}))).status_code == 200


async def test_clocks_may_differ_by_a_minute(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        now = time.time()
        assert (await me(api, await issuer.token(exp=now - 30))).status_code == 200
        assert (await me(api, await issuer.token(nbf=now + 30, iat=now + 30))).status_code == 200
        assert "`exp`" in await refused(api, await issuer.token(exp=now - 61))
        assert "`nbf`" in await refused(api, await issuer.token(nbf=now + 120))


async def test_a_rotated_key_is_fetched_and_a_dropped_one_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_keys, "REFETCH_S", 0.0)
    async with serving(issuer) as api:
        old = await issuer.token()
        assert (await me(api, old)).status_code == 200
        await issuer.ask("/rotate", keep=False)
        assert (await me(api, await issuer.token())).status_code == 200
        assert "`kid`" in await refused(api, old)


async def test_floods_of_unknown_keys_cause_one_fetch(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        tokens = [await issuer.token({"kid": str(uuid4())}) for _ in range(30)]
        await asyncio.gather(*(refused(api, token) for token in tokens[:20]))
        for token in tokens[20:]:
            await refused(api, token)
        assert await issuer.count("keys") == 1
        assert (await me(api, await issuer.token())).status_code == 200
        assert await issuer.count("keys") == 1


async def test_the_server_starts_while_its_issuer_is_down(
    issuer: Issuer, process: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_keys, "RETRY_S", 0.0)
    token = await issuer.token()
    await process.kill()
    async with serving(issuer) as api:
        assert "issuer" in await refused(api, token, 503)
        assert (await api.get("/health/ready")).status_code == 200
        await process.start()
        assert (await me(api, await issuer.token())).status_code == 200


async def test_known_keys_serve_while_the_issuer_is_down(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc_keys, "REFETCH_S", 0.0)
    monkeypatch.setattr(oidc_keys, "FRESH_S", 0.0)
    async with serving(issuer) as api:
        first, second, third = [await issuer.token(sub=name) for name in ("ada", "bob", "eve")]
        assert (await me(api, first)).status_code == 200
        await issuer.ask("/behave", how="failing")
        assert (await me(api, second)).status_code == 200
        assert "500" in await refused(api, await issuer.token({"kid": "new"}), 503)
        monkeypatch.setattr(oidc_keys, "TRUSTED_S", 0.0)
        await refused(api, third, 503)


@pytest.mark.parametrize(
    "how",
    ["huge", "redirecting", "html", "failing", "nested", "many keys", "other issuer", "file"],
)
async def test_what_is_no_list_of_keys_is_refused(issuer: Issuer, how: str) -> None:
    await issuer.ask("/behave", how=how)
    async with serving(issuer) as api:
        await refused(api, await issuer.token(), 503)
        assert await issuer.count("elsewhere") == 0


async def test_keys_that_cannot_be_used_do_not_hide_the_others(issuer: Issuer) -> None:
    await issuer.ask("/behave", how="odd keys")
    async with serving(issuer) as api:
        assert (await me(api, await issuer.token())).status_code == 200
        for kid in ("bad", "ops", "x"):
            assert await refused(api, await issuer.token({"kid": kid}))


async def test_a_slow_issuer_delays_no_other_request(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc_keys, "FETCH_LIMIT_S", 2.0)
    await issuer.ask("/behave", how="slow")
    async with serving(issuer) as api:
        waiting = asyncio.create_task(me(api, await issuer.token()))
        while not await issuer.count("keys"):
            await asyncio.sleep(0.01)
        assert (await api.get("/v1/threads")).status_code == 401
        assert not waiting.done()
        assert (await waiting).status_code == 503


async def test_the_tenant_of_a_token_exists_and_is_not_suspended(issuer: Issuer) -> None:
    settings = {"oidc_tenant_claim": "tid", "oidc_scopes_claim": "roles", "oidc_scopes_prefix": "tf:"}
    async with serving(issuer, **settings) as api:
        token = await issuer.token(tid="acme", roles=["tf:audit:read", "threads:read"])
        assert "unknown" in await refused(api, token)
        operator = Principal(Tenant(""), "op", SCOPES)
        await api.service.identity.create_tenant("acme", operator, Caller())
        found = (await me(api, token)).json()
        assert (found["tenant"], found["scopes"]) == ("acme", ["audit:read"])
        await api.service.identity.suspend_tenant("acme", operator, Caller())
        await api.authenticator.poll()
        assert "suspended" in await refused(api, token)


async def test_a_stream_ends_with_its_token(issuer: Issuer) -> None:
    async with serving(issuer) as api:
        headers = {"Authorization": f"Bearer {await issuer.token(exp=time.time() + 1)}"}
        async with asyncio.timeout(30):
            opener = {"Authorization": f"Bearer {await issuer.token(scope='threads:write')}"}
            thread = (await api.post("/v1/threads", json={}, headers=opener)).json()["thread_id"]
            async with api.stream("GET", f"/v1/threads/{thread}/stream", headers=headers) as stream:
                assert stream.status_code == 200
                async for _ in stream.aiter_raw():
                    pass


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OIDC_ALGORITHMS", "RS256,none", "'none'"),
        ("OIDC_ALGORITHMS", "HS256", "'HS256'"),
        ("OIDC_ALGORITHMS", ",", "expected some of"),
        ("OIDC_ISSUER", "http://login.example.com", "https"),
        ("OIDC_ISSUER", "http://127.0.0.1.example.com", "https"),
        ("OIDC_ISSUER", "https://user:secret@login.example.com", "(hidden)"),
        ("OIDC_JWKS_URL", "file:///etc/passwd", "expected"),
        ("OIDC_AUDIENCE", "", "together"),
    ],
)
async def test_settings_that_are_not_safe_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    for variable, text in {"OIDC_ISSUER": "https://login.example.com/", "OIDC_AUDIENCE": "x", name: value}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(BadSetting) as caught:
        load_settings(Path("/nonexistent/.env"))
    assert name in str(caught.value)
    assert expected in str(caught.value)


async def test_the_start_up_line_names_the_issuer() -> None:
    settings = Settings(_env_file=None, oidc_issuer="https://login.example.com", oidc_audience="x")  # type: ignore[call-arg]
    assert access_of(settings, has_keys=False) == "callers need a token of https://login.example.com"
    assert access_of(settings, has_keys=True) == "callers need a key or a token of https://login.example.com"
