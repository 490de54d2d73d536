"""Embeddings over HTTP, as OpenAI-compatible endpoints give them, and how that fails."""

import json

import pytest

from domain.chat import AnswerMalformed, ModelError, ModelOverloaded, ModelRejectedRequest, ModelUnreachable
from infrastructure.models.embeddings import OpenAIEmbedder
from tests.fakes.openai_server import Cut, OpenAIServer, Reply, Request, refusal

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
        (refusal(401, f"not {KEY}"), ModelRejectedRequest),
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
