"""`threadfold serve`, as a process of its own."""

import asyncio
import re
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from infrastructure.settings import CHECKOUT
from tests.fakes.openai_server import OpenAIServer, Pause, Reply
from tests.support.command import COMMAND, Done, environment, threadfold

NOWHERE = "postgresql://someone:s3cret@127.0.0.1:1/nothing"
UNKNOWN = "018f0000-0000-7000-8000-000000000000"


# --- serve


class Server:
    """`threadfold serve` and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, ready: str) -> None:
        self.process = process
        self.ready = ready
        found = re.search(r"http://\S+", ready)
        assert found, ready
        self.url = found[0]

    async def stopped(self, number: signal.Signals) -> Done:
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        return Done(self.process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def serving(*arguments: str, **settings: object) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "serve",
        *arguments,
        cwd=CHECKOUT,
        env=environment(**{"port": 0, **settings}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield Server(process, (await process.stdout.readline()).decode())
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_says_when_it_is_ready_and_ends_well(database_url: str, number: signal.Signals) -> None:
    async with serving(database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/health/ready")).json() == {"status": "ready"}
        done = await server.stopped(number)

    assert server.ready.startswith("Threadfold is ready at http://127.0.0.1:")
    assert f"data in PostgreSQL at {database_url.partition('host=')[2].partition('&')[0]}/test_" in server.ready
    assert server.ready.endswith("; model: offline; open to this machine, without keys\n")
    assert (done.status, done.out) == (0, "")
    assert done.err == "Threadfold stops when the running turns have ended, within some seconds.\n"


async def test_the_ready_line_tells_no_secret() -> None:
    async with serving(
        database_url="memory://", llm_endpoint="http://me:s3cret@127.0.0.1:1/v1", llm_api_key="k3y", llm_model="Large"
    ) as server:
        pass

    assert server.ready.endswith(
        "memory only, lost when this process ends; "
        "model: Large at http://127.0.0.1:1/v1; open to this machine, without keys\n"
    )


async def test_a_port_in_use_is_told_in_one_line() -> None:
    async with serving(database_url="memory://") as server:
        port = server.url.rpartition(":")[2]
        done = await threadfold("serve", "--port", port, database_url=NOWHERE)

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"Error: Port {port} of 127.0.0.1 is in use. ")
    assert done.err.count("\n") == 1


async def test_answers_come_whole_and_in_order_to_whoever_asks_ahead() -> None:
    async with serving(database_url="memory://") as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for connection in ("keep-alive", "close"):
            writer.write(f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n".encode())
        answers = (await reader.read()).decode()
        writer.close()

    assert re.fullmatch(r'(HTTP/1.1 200 OK\r\n([^\r]+\r\n)+\r\n\{"status":"alive"\}){2}', answers), answers


async def test_a_server_takes_as_many_connections_as_the_system_allows_and_not_as_it_begins_with() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with serving(database_url="memory://") as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            host, port = server.url.removeprefix("http://").split(":")
            connections = [await asyncio.open_connection(host, int(port)) for _ in range(300)]
            for _, writer in connections:
                writer.write(f"GET /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answers = [await reader.readline() for reader, _ in connections]
            for _, writer in connections:
                writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}


async def test_requests_are_logged_only_on_demand() -> None:
    async def log_of(*arguments: str) -> str:
        async with serving(*arguments, database_url="memory://") as server:
            async with httpx.AsyncClient(base_url=server.url) as client:
                await client.get("/health/live")
            return (await server.stopped(signal.SIGTERM)).err

    assert "/health/live" not in await log_of()
    logged = await log_of("--access-log")
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC INFO .*/health/live", logged, re.MULTILINE)


async def test_requests_to_the_model_are_not_logged() -> None:
    async with OpenAIServer() as model, serving(database_url="memory://", llm_endpoint=model.endpoint) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            opened = (await client.post("/v1/threads", json={})).json()
            turn = f"/v1/threads/{opened['thread_id']}/turns?wait=true"
            assert (await client.post(turn, json={"user_input": "hi"})).is_success
        done = await server.stopped(signal.SIGTERM)

    assert model.requests
    assert "HTTP Request" not in done.err


async def test_a_request_that_waits_for_a_turn_does_not_hold_up_the_end(database_url: str) -> None:
    async with (
        OpenAIServer(otherwise=Reply(before=[Pause(60)])) as model,
        serving(database_url=database_url, llm_endpoint=model.endpoint) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        opened = (await client.post("/v1/threads", json={})).json()
        turn = client.post(f"/v1/threads/{opened['thread_id']}/turns?wait=true", json={"user_input": "hi"})
        asked = asyncio.create_task(turn)
        while not model.requests:
            await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        done = await server.stopped(signal.SIGTERM)
        took = asyncio.get_running_loop().time() - began
        answer = await asked

    assert (done.status, "Traceback" in done.err) == (0, False)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:threadfold:stopping")
    assert took < 40, "the model answers after 60 s"


async def test_a_server_and_commands_share_the_embedded_database(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            opened = (await client.post("/v1/threads", json={})).json()
        listed = await threadfold("threads", "list", "--json", data_dir=tmp_path)
        assert [entry["thread_id"] for entry in listed.json["items"]] == [opened["thread_id"]]
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/health/ready")).is_success
        assert (await server.stopped(signal.SIGTERM)).status == 0

    assert str(tmp_path) in server.ready
    assert (await threadfold("verify", data_dir=tmp_path)).out.startswith("Checked 1 thread, 1 event, 1,024 slices")
