"""The application behind a real socket, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn

from api.app import create_app
from api.service import Service
from infrastructure.settings import Settings


class Api(httpx.AsyncClient):
    """A client of a running application, and a door to what is behind it."""

    service: Service

    async def turn(self, thread_id: str, user_input: str) -> httpx.Response:
        return await self.post(f"/v1/threads/{thread_id}/turns", params={"wait": True}, json={"user_input": user_input})

    async def opened(self, **body: object) -> str:
        response = await self.post("/v1/threads", json=body)
        assert response.is_success, response.text
        return str(response.json()["thread_id"])


@asynccontextmanager
async def running_api(**settings: object) -> AsyncIterator[Api]:
    """Serve with these settings on a free port of the loopback interface."""
    defaults = {"llm_endpoint": None, "agents": (), "knowledge_dir": Path("docs")}
    app = create_app(Settings(_env_file=None, **{**defaults, **settings}))  # type: ignore[arg-type, call-arg]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                if task.done():
                    task.result()
                    raise RuntimeError("the server ended before it had started")
                await asyncio.sleep(0.01)
            async with Api(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                client.service = app.state.service
                yield client
        finally:
            server.should_exit = True
            await task
