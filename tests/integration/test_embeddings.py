"""Embeddings over HTTP, as OpenAI-compatible endpoints give them, and how that fails."""

import asyncio
import json
from collections.abc import Sequence
from uuid import UUID

import pytest

from domain.application.recall.search import SemanticSearch
from domain.ids import ThreadId, Version
from domain.models.chat import (
    AnswerMalformed,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelRejectedRequest,
    ModelUnknown,
    ModelUnreachable,
)
from domain.recall.bm25 import Hit
from infrastructure.models.openai.embeddings import OpenAIEmbedder
from tests.fakes.openai_server import Cut, OpenAIServer, Reply, Request, refusal
from tests.support.http import running_api
from tests.support.reading import talk

KEY = "sk-very-secret"


def vectors(request: Request) -> Reply:
    data = [{"index": n, "embedding": [n, len(text)]} for n, text in enumerate(request.body["input"])]
    return Reply([json.dumps({"data": data[::-1]}).encode()])


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    async with OpenAIServer(otherwise=vectors) as server:
        embedder = OpenAIEmbedder(server.endpoint, KEY, "small")
        assert await embedder.embed(["a", "bcd"]) == [[0.0, 1.0], [1.0, 3.0]]
        assert await embedder.embed([]) == []
        (request,) = server.requests
        assert request.path.endswith("/embeddings")
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body == {"model": "small", "input": ["a", "bcd"]}
        await embedder.close()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refusal(503), ModelOverloaded),
        (refusal(429), ModelOverloaded),
        (refusal(400, f"not {KEY}"), ModelRejectedRequest),
        (refusal(401, f"not {KEY}"), ModelRefused),
        (refusal(404), ModelUnknown),
        (Reply([b"<html>"]), AnswerMalformed),
        (Reply([b'{"data": []}']), AnswerMalformed),
        (Reply([b'{"data": [{"index": 0, "embedding": []}]}']), AnswerMalformed),
        (Reply(before=(Cut(),)), ModelUnreachable),
    ],
)
async def test_failures_are_model_errors_and_tell_no_key(reply: Reply, error: type[ModelError]) -> None:
    async with OpenAIServer(otherwise=reply) as server:
        embedder = OpenAIEmbedder(server.endpoint, KEY, "small")
        with pytest.raises(error) as failed:
            await embedder.embed(["a"])
        assert KEY not in str(failed.value)
        await embedder.close()


async def test_an_endpoint_that_is_not_there_is_unreachable() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:9/v1", None, "small")
    with pytest.raises(ModelUnreachable, match="EMBEDDING_ENDPOINT"):
        await embedder.embed(["a"])
    await embedder.close()


async def test_this_machine_is_asked_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with OpenAIServer(otherwise=vectors) as server:
        embedder = OpenAIEmbedder(server.endpoint, KEY, "small")
        assert await embedder.embed(["a"]) == [[0.0, 1.0]]
        await embedder.close()


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


async def test_a_worker_embeds_what_is_said_and_it_is_found_by_meaning(url: str) -> None:
    async with (
        OpenAIServer(otherwise=vectors) as server,
        running_api(database_url=url, embedding_endpoint=server.endpoint, embedding_model="small") as api,
    ):
        thread_id = ThreadId(UUID(await talk(api, "What about the marmalade?")))
        meaning = api.service.runtime.recall.meaning
        assert meaning
        async with asyncio.timeout(60):
            while not (hits := await _nearest(meaning, thread_id)):
                await asyncio.sleep(0.05)
        assert hits[0].thread_id == thread_id


async def test_an_endpoint_that_is_away_keeps_nobody_from_talking(url: str) -> None:
    async with running_api(database_url=url, embedding_endpoint="http://127.0.0.1:9/v1") as api:
        await talk(api, "What about the marmalade?")


async def test_nothing_is_embedded_where_nothing_is_recalled() -> None:
    async with running_api(database_url="memory://", embedding_endpoint="http://127.0.0.1:9/v1", recall=False) as api:
        assert api.service.runtime.indexer is None


async def _nearest(meaning: SemanticSearch, thread_id: ThreadId) -> Sequence[Hit]:
    return await meaning.vectors.nearest("small", [(thread_id, Version(99))], [0.0, 25.0], Version(99), 5)
