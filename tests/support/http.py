"""The application behind a real socket, in the test's own event loop."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from litestar import Litestar

from api.app import create_app
from api.services.threads import Service
from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.application.identity.authenticate import Authenticator
from domain.thread.events import END, NodeEvent
from infrastructure.settings import Settings


async def _answer(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("Hm.")]


OTHER = Agent(Graph("other", start="answer", nodes=[Node("answer", _answer)], edges={"answer": END}))
"""An agent beside the built-in one."""


class Api(httpx.AsyncClient):
    """A client of a running application, and a door to what is behind it. It holds every answer against /schema."""

    service: Service
    authenticator: Authenticator
    schema: dict[str, Any]

    async def send(self, request: httpx.Request, **how: Any) -> httpx.Response:
        response = await super().send(request, **how)
        check_declared(self.schema, request, response)
        return response

    async def turn(self, thread_id: str, user_input: str) -> httpx.Response:
        return await self.post(f"/v1/threads/{thread_id}/turns", params={"wait": True}, json={"user_input": user_input})

    async def opened(self, **body: object) -> str:
        response = await self.post("/v1/threads", json=body)
        assert response.is_success, response.text
        return str(response.json()["thread_id"])


_schema: dict[str, Any] = {}


def schema_of(app: Litestar) -> dict[str, Any]:
    """Describe the routes, once in a process: all applications have the same ones, and it takes as long as a start."""
    if not _schema:
        _schema.update(app.openapi_schema.to_schema())
    return _schema


def check_declared(schema: dict[str, Any], request: httpx.Request, response: httpx.Response) -> None:
    """Whatever a route answers, /schema says that it may: the status, and the type of the content."""
    operation: dict[str, Any] = next(
        (ops for path, ops in schema["paths"].items() if matches(path, request.url.path)), {}
    )
    declared = operation.get(request.method.lower())
    if declared is None:
        assert response.status_code in {204, 404, 405} or request.url.path.startswith("/schema"), response.text
        return
    asked = f"{request.method} {request.url.path}: {response.status_code}"
    assert str(response.status_code) in declared["responses"], f"{asked} is not declared"
    content = declared["responses"][str(response.status_code)].get("content", {})
    given = response.headers["content-type"]
    assert {given, given.partition(";")[0]} & content.keys(), f"{asked} is not declared as {given}"


def matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


@asynccontextmanager
async def running_api(**settings: object) -> AsyncIterator[Api]:
    """Serve with these settings on a free port of the loopback interface."""
    defaults = {"llm_endpoint": None, "agents": (), "knowledge_dir": Path("docs")}
    app = create_app(Settings(_env_file=None, **{**defaults, **settings}))  # type: ignore[arg-type, call-arg]
    # With its protocol named, asyncio sends what there is at once: otherwise each answer waits for an ACK, 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="warning", lifespan="on", timeout_keep_alive=75, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                if task.done():
                    task.result()
                    raise RuntimeError("the server ended before it had started")
                await asyncio.sleep(0.01)
            async with Api(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                client.service, client.schema = app.state.service, schema_of(app)
                client.authenticator = app.state.authenticator
                yield client
        finally:
            server.should_exit = True
            await task
