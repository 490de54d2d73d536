"""Embeddings from an OpenAI-compatible endpoint."""

from collections.abc import Sequence

import httpx
import msgspec
from msgspec import Struct

from domain.models.chat import AnswerMalformed, ModelUnreachable
from infrastructure.models.hosts import is_loopback
from infrastructure.models.openai.failures import kind_of, quoted

PATH = "/embeddings"

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
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        direct = past_proxies or is_loopback(httpx.URL(self._url).host)  # a proxy cannot reach this machine's loopback
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=not direct)

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Request the vectors of some texts, in their order. Raises a `ModelError`."""
        if not texts:
            return []
        try:
            response = await self._client.post(self._url, json={"model": self.model, "input": list(texts)})
        except httpx.RequestError as error:
            why = quoted(str(error), self._key) or type(error).__name__
            said = f"The embeddings endpoint did not answer: {why}. Check EMBEDDING_ENDPOINT."
            raise ModelUnreachable(said) from error
        if not response.is_success:
            said = f"HTTP {response.status_code}: {quoted(response.text, self._key)}"
            raise kind_of(response.status_code)(f"The embeddings endpoint answered {said}")
        try:
            data = sorted(_decode(response.content).data, key=lambda one: one.index)
        except msgspec.MsgspecError as error:
            raise AnswerMalformed(f"The embeddings endpoint sent an invalid answer: {error}") from error
        if len(data) != len(texts) or not all(one.embedding for one in data):
            raise AnswerMalformed(f"The embeddings endpoint sent {len(data)} vectors for {len(texts)} texts.")
        return [one.embedding for one in data]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
