"""Which names a server may be called by, and from which pages: against DNS rebinding and foreign sites."""

import asyncio
import socket

import httpx
import pytest

from api.http.security_headers import HEADERS
from infrastructure.settings import BadSetting, load_settings
from tests.support.http import Api, running_api

PATHS = ("/health/live", "/schema", "/v1/threads")


async def refused(api: Api, path: str, **headers: str) -> tuple[int, str]:
    answer = await api.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return answer.status_code, answer.json()["errors"][0]["field"] if answer.is_error else ""


async def test_a_local_server_answers_to_its_local_names_and_pages() -> None:
    async with running_api(database_url="memory://") as api:
        for path in PATHS:
            for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"):
                assert await refused(api, path, host=host, origin=f"http://{host}") == (200, "")
                for origin in (
                    "http://evil.test",
                    "null",
                    "http://localhost:9",
                    "ftp://localhost",
                    "https://127.0.0.1:1",
                ):
                    assert await refused(api, path, host=host, origin=origin) == (403, "Origin"), (host, origin)
            for host in (
                "evil.test:8000",
                "10.0.0.1",
                "localhost.",
                "localhost:8000:1",
                "a@localhost",
                "",
                "localhost,x",
            ):
                assert await refused(api, path, host=host) == (400, "Host"), host


async def test_pages_of_other_sites_may_not_even_get() -> None:
    async with running_api(database_url="memory://") as api:
        for site in ("cross-site", "same-site", "odd"):
            assert await refused(api, "/v1/threads", sec_fetch_site=site) == (403, "Sec-Fetch-Site")
        for site in ("same-origin", "none"):
            assert await refused(api, "/v1/threads", sec_fetch_site=site) == (200, "")


async def test_a_server_for_other_machines_answers_to_addresses_and_to_its_names() -> None:
    names = ("agents.example", "app")
    async with running_api(database_url="memory://", host="0.0.0.0", auth="none", host_names=names) as api:
        for host in ("agents.example", "APP:8000", "10.0.0.1:8000", "[fd00::1]", socket.gethostname()):
            assert await refused(api, "/v1/threads", host=host) == (200, ""), host
        for host in ("evil.test", "agents.example.evil.test", "xagents.example"):
            assert await refused(api, "/v1/threads", host=host) == (400, "Host"), host
        for origin, status in (
            ("https://agents.example", 200),
            ("http://agents.example", 200),
            ("https://a.test", 403),
        ):
            answer = await api.get("/v1/threads", headers={"Host": "agents.example", "Origin": origin})
            assert answer.status_code == status, origin


@pytest.mark.parametrize(
    "heads", ["Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil.test\r\n", ""]
)
async def test_a_request_has_exactly_one_host(heads: str) -> None:
    async with running_api(database_url="memory://") as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
        writer.write(f"GET /v1/threads HTTP/1.1\r\n{heads}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


async def test_every_answer_has_the_headers_that_browsers_obey() -> None:
    async with running_api(database_url="memory://") as api:
        thread_id = await api.opened()
        answers: list[httpx.Response] = [
            await api.get("/health/live"),
            await api.get("/schema"),
            await api.get("/v1/threads"),
            await api.get("/v1/nothing"),
            await api.get("/v1/threads?at=1"),
            await api.get("/v1/threads", headers={"Host": "evil.test"}),
            await api.put("/v1/threads"),
            await api.get(f"/v1/threads/{thread_id}/stream?until_idle=true"),
            await api.get("/v1/threads", headers={"Authorization": "Bearer x"}),
        ]
        for answer in answers:
            assert HEADERS.items() <= {name: answer.headers.get(name) for name in HEADERS}.items(), answer.request.url


@pytest.mark.parametrize("name", ["http://agents.example", "agents.example:8000", "*", "a b", "[::1]"])
def test_odd_names_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOST_NAMES", name)
    with pytest.raises(BadSetting, match="HOST_NAMES"):
        load_settings()
