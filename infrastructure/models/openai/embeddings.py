"""Embeddings from an OpenAI-compatible endpoint."""

from collections.abc import Sequence
from math import isfinite

import httpx
import msgspec
from msgspec import Struct

from domain.json_scan import count_items
from domain.models.chat import AnswerMalformed, AnswerTooLarge, ModelUnreachable
from infrastructure.models.hosts import is_loopback
from infrastructure.models.openai.bodies import read_body
from infrastructure.models.openai.failures import kind_of, quoted

PATH = "/embeddings"

MAX_DIMENSIONS = 10_000
"""Numbers of a vector that are read, with what is around it: three times those of the largest models."""

MAX_VECTOR_BYTES = 25 * MAX_DIMENSIONS
MAX_ERROR_BYTES = 64 * 1024

TIMEOUT_S, CONNECT_TIMEOUT_S = 20.0, 2.0


class _Embedding(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_Embedding]


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAIEmbedder:
    """An `Embedder` over HTTP. It does not retry: the background embedder does."""

    def __init__(self, endpoint: str, api_key: str | None, model: str, *, past_proxies: bool = False) -> None:
        """Take an `endpoint` such as `http://127.0.0.1:11434/v1`. `past_proxies`: ignore the environment's proxies."""
        self.model = model
        self._key = api_key or ""
        self._url = endpoint if endpoint.endswith(PATH) else endpoint + PATH
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        direct = past_proxies or is_loopback(httpx.URL(self._url).host)  # a proxy cannot reach this machine's loopback
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=not direct)

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Request the vectors of some texts, in their order. Raises a `ModelError`."""
        if not texts:
            return []
        try:
            asked = {"model": self.model, "input": list(texts)}
            async with self._client.stream("POST", self._url, json=asked) as response:
                body = await read_body(response, len(texts) * MAX_VECTOR_BYTES + MAX_ERROR_BYTES)
        except httpx.RequestError as error:
            why = quoted(str(error), self._key) or type(error).__name__
            said = f"The embeddings endpoint did not answer: {why}. Check EMBEDDING_ENDPOINT."
            raise ModelUnreachable(said) from error
        if not response.is_success:
            words = (body or b"")[:MAX_ERROR_BYTES].decode("utf-8", "replace")
            said = f"HTTP {response.status_code}: {quoted(words, self._key)}"
            raise kind_of(response.status_code)(f"The embeddings endpoint answered {said}")
        if body is None or count_items(body, most := len(texts) * MAX_DIMENSIONS).items > most:
            raise AnswerTooLarge(f"The embeddings endpoint sent more than {MAX_DIMENSIONS:,} numbers for a text.")
        try:
            data = sorted(_decode(body).data, key=lambda one: one.index)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise AnswerMalformed(f"The embeddings endpoint sent an invalid answer: {error}") from error
        if not all(isfinite(number) for one in data for number in one.embedding):
            raise AnswerMalformed("The embeddings endpoint sent numbers that are not finite.")
        if len(data) != len(texts) or not all(one.embedding for one in data):
            raise AnswerMalformed(f"The embeddings endpoint sent {len(data)} vectors for {len(texts)} texts.")
        return [one.embedding for one in data]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
