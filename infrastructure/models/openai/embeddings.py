"""Embeddings from an OpenAI-compatible endpoint."""

from collections.abc import Sequence

import httpx
import msgspec
from msgspec import Struct

from domain.agents.error_text import shortened
from domain.models.chat import AnswerMalformed, ModelUnreachable
from infrastructure.models.hosts import is_loopback
from infrastructure.models.openai.failures import MAX_WORDS, failure_of, without

PATH = "/embeddings"

LIMIT, CONNECT = 20.0, 2.0
"""Seconds that an answer, and a connection, may take."""


class _One(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_One]


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAIEmbedder:
    """An `Embedder` over HTTP. It tries once: whoever embeds in the background comes again anyway."""

    def __init__(self, endpoint: str, api_key: str | None, model: str, *, past_proxies: bool = False) -> None:
        """Ask `endpoint`, such as `http://127.0.0.1:11434/v1`; not by way of a proxy, if so wished, or on loopback."""
        self.model = model
        self._key = api_key or ""
        self._url = endpoint if endpoint.endswith(PATH) else endpoint + PATH
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx.Timeout(LIMIT, connect=CONNECT)
        direct = past_proxies or is_loopback(httpx.URL(self._url).host)  # a proxy cannot reach this machine's loopback
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=not direct)

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Ask for the vectors of some texts."""
        if not texts:
            return []
        try:
            response = await self._client.post(self._url, json={"model": self.model, "input": list(texts)})
        except httpx.RequestError as error:
            why = shortened(without(self._key, str(error)), MAX_WORDS) or type(error).__name__
            raise ModelUnreachable(
                f"The embeddings' endpoint did not answer: {why}. Check EMBEDDING_ENDPOINT."
            ) from error
        if not response.is_success:
            said = shortened(without(self._key, response.text), MAX_WORDS)
            kind = type(failure_of(response.status_code, said))
            raise kind(f"The embeddings' endpoint said {response.status_code}: {said}")
        try:
            data = sorted(_decode(response.content).data, key=lambda one: one.index)
        except msgspec.MsgspecError as error:
            raise AnswerMalformed(f"The embeddings' endpoint answered something else: {error}") from error
        if len(data) != len(texts) or not all(one.embedding for one in data):
            raise AnswerMalformed(f"The embeddings' endpoint gave {len(data)} vectors for {len(texts)} texts.")
        return [one.embedding for one in data]

    async def close(self) -> None:
        """Let connections go."""
        await self._client.aclose()
