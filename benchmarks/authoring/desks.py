"""Desks as processes that can be killed, by one interface: ours over HTTP, the others by lines of JSON."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx

from infrastructure.settings import CHECKOUT
from tests.e2e.server_process import ServerProcess, threadfold

PATIENCE_S = 120.0


class Desk(Protocol):
    """A desk with one conversation. `say`, `grant` and `resume` return its answer, or what it asks.

    They raise `Killed` if the process dies meanwhile.
    """

    async def start(self) -> None: ...
    async def kill(self) -> None: ...
    async def say(self, text: str) -> str: ...
    async def grant(self) -> str: ...
    async def resume(self) -> str: ...
    async def stop(self) -> None: ...


class Killed(Exception):
    """The process was killed."""


class LinesDesk:
    """A desk that is a Python module with the protocol of `langgraph_process`."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._module, self._environment, self._log, self._seen = module, environment, log, 0

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module),
                cwd=CHECKOUT,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        await self._read()

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def say(self, text: str) -> str:
        return await self._ask(say=text)

    async def grant(self) -> str:
        return await self._ask(grant=True)

    async def resume(self) -> str:
        return await self._ask(resume=True)

    async def stop(self) -> None:
        await self.kill()

    async def _ask(self, **request: object) -> str:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({**request, "seen": self._seen}).encode() + b"\n")
        answered = await self._read()
        self._seen = answered.get("seen", 0)
        return str(answered["answer"])

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            if self._process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"The desk ended: {self._log.read_text()[-3000:]}")
            raise Killed
        return dict(json.loads(line))


class ThreadfoldDesk:
    """Ours, behind `threadfold serve`."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._server: ServerProcess = threadfold(
            directory, AGENTS="benchmarks.authoring.deadly:desk", LLM_MODEL="test", **environment
        )
        self._thread = ""

    async def start(self) -> None:
        await self._server.start()
        self._http = httpx.AsyncClient(base_url=self._server.url, timeout=PATIENCE_S, trust_env=False)

    async def kill(self) -> None:
        await self._server.kill()
        await self._http.aclose()

    async def say(self, text: str) -> str:
        if not self._thread:
            body = {"graph": "returns", "subject": "mia"}
            self._thread = (await self._http.post("/v1/threads", json=body)).raise_for_status().json()["thread_id"]
        return await self._send("turns", {"user_input": text})

    async def grant(self) -> str:
        (approval,) = (await self._http.get(f"/v1/threads/{self._thread}/approvals")).json()["items"]
        decision = {"decision": "grant", "hash": approval["hash"]}
        return await self._send(f"approvals/{approval['approval_id']}", decision)

    async def resume(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await self._settled()

    async def stop(self) -> None:
        await self._http.aclose()
        await self._server.stop()

    async def _send(self, path: str, body: object) -> str:
        try:
            (await self._http.post(f"/v1/threads/{self._thread}/{path}", json=body)).raise_for_status()
            return await self._settled()
        except httpx.TransportError:
            await self._server.ended()
            raise Killed from None

    async def _settled(self) -> str:
        """Follow the stream to the end of the turn, or until it waits; return the last text, or what waits."""
        params = {"after": 0, "until_idle": True}
        (await self._http.get(f"/v1/threads/{self._thread}/stream", params=params)).raise_for_status()
        if waiting := (await self._http.get(f"/v1/threads/{self._thread}/approvals")).json()["items"]:
            return str(waiting[0]["arguments"])
        messages = (await self._http.get(f"/v1/threads/{self._thread}/messages")).json()["items"]
        return str(messages[-1]["content"])
