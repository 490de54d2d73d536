"""A client of a scripted model server, and shorthands to ask it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.models.chat import ChatMessage, ChatRequest, ModelError
from infrastructure.models.openai.client import OpenAIChatModel
from tests.fakes.openai_server import (
    OpenAIServer,
    Reply,
    chunk,
)

KEY = "sk-very-secret"
ASK = ChatRequest((ChatMessage("user", "Hello?"),))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Complete = Callable[..., Awaitable[Any]]


class Naps:
    """Stands for sleeping: notes how long."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@asynccontextmanager
async def client(server: OpenAIServer, **options: Any) -> AsyncIterator[OpenAIChatModel]:
    given = {"now": lambda: NOON, "random": lambda: 1.0, "sleep": Naps(), **options}
    model = OpenAIChatModel(given.pop("endpoint", server.endpoint), given.pop("key", KEY), "small", **given)
    try:
        yield model
    finally:
        await model.close()


async def whole(*script: Reply, request: ChatRequest = ASK, **options: Any) -> Any:
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        return await model.complete(request)


async def streamed(*script: Reply, request: ChatRequest = ASK, **options: Any) -> Any:
    """Return the answer, after checking that its text is what was shown."""
    shown: list[str] = []
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        answer = await model.complete(request, shown.append)
    assert "".join(shown) == (answer.content or "")
    return answer


async def raised_by(kind: type[ModelError], *script: Reply, shown: list[str] | None = None, **options: Any) -> str:
    """Return the message of the error that a streamed request ends with."""
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        with pytest.raises(kind) as caught:
            await model.complete(ASK, (shown if shown is not None else []).append)
    assert type(caught.value) is kind
    return str(caught.value)


async def error_of(reply: Reply, **options: Any) -> ModelError:
    """Return the error that a streamed request ends with."""
    async with OpenAIServer(reply) as server, client(server, **options) as model:
        with pytest.raises(ModelError) as caught:
            await model.complete(ASK, lambda _: None)
    return caught.value


def call(name: str | None, arguments: Any, **rest: Any) -> dict[str, Any]:
    function = {**({} if name is None else {"name": name}), **({} if arguments is None else {"arguments": arguments})}
    return {**rest, "function": function}


def calls(*parts: dict[str, Any]) -> dict[str, Any]:
    return chunk(None, tool_calls=list(parts))
