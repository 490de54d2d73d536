"""A chat model behind any endpoint that speaks OpenAI's chat completions: OpenAI, Ollama, llama.cpp, vLLM."""

import asyncio
import random as randomness
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime

import httpx
from msgspec import Struct

from domain.chat import (
    AnswerCut,
    AnswerMalformed,
    AnswerTooLarge,
    ChatAnswer,
    ChatRequest,
    ModelError,
    ModelUnreachable,
    OnDelta,
)
from domain.errors import InvalidInput
from domain.json import storable_text
from infrastructure.models.assembly import Assembly
from infrastructure.models.failures import failure_of, server_words, shortened, without
from infrastructure.models.hosts import is_loopback
from infrastructure.models.prompt_cache import PromptCache
from infrastructure.models.retry import RetryPolicy, seconds_asked, worth_another
from infrastructure.models.sse import EventStreamParser
from infrastructure.models.wire import read_completion, write_request

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
PATH = "/chat/completions"

LINGER = 1.0
"""Seconds to wait, once the answer is complete, for the usage and for the end that lets a connection be reused."""


class TimeLimits(Struct, frozen=True):
    """How long to wait, in seconds.

    `first_byte` runs from the request to the first byte of a streamed answer's body, `silence` between its chunks.
    An answer that is not streamed is silent while the model works, so that only `total` limits its beginning.
    `total` covers everything, with retries and the waits between them.
    """

    connect: float = 5.0
    first_byte: float = 60.0
    silence: float = 30.0
    total: float = 300.0


class OpenAIChatModel:
    """Implements `domain.chat.ChatModel` over HTTP.

    Refusals that may pass (see `retry.py`) are retried until an answer begins; from then on a failure is raised, as
    text may have been shown. No error's message contains the key.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str | None,
        model: str,
        *,
        limits: TimeLimits | None = None,
        retry: RetryPolicy | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        past_proxies: bool = False,
        prompt_cache: PromptCache = "automatic",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """Take a base URL such as http://localhost:11434/v1 (or the whole path), a key if it wants one, a model.

        `past_proxies`: ask the endpoint itself, whatever proxy the environment names. Raises `InvalidInput` for an
        endpoint that is no such URL, or a key that no header can carry.
        """
        self._url = completions_url(endpoint)
        self._key = (api_key or "").strip()
        self._model = model
        self._limits = limits or TimeLimits()
        self._retry = retry or RetryPolicy()
        self._max_answer_bytes = max_answer_bytes
        self._prompt_cache = prompt_cache
        self._now, self._sleep, self._random = now, sleep, random
        # OpenAI's newer models know only the new name, most other servers only the old one.
        self._limit_field = "max_completion_tokens" if self._url.host == "api.openai.com" else "max_tokens"
        here = is_loopback(self._url.host)
        # Loading the certificates of all authorities takes longer than starting the rest; here none is needed.
        bare = here and self._url.scheme == "http"
        self._client = httpx.AsyncClient(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if bare else httpx.create_ssl_context(),
            headers=_headers(self._key),
            timeout=httpx.Timeout(None, connect=self._limits.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not (here or past_proxies),  # a proxy cannot reach this machine's own loopback
        )

    async def close(self) -> None:
        """Let connections go."""
        await self._client.aclose()

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer the request, streaming if `on_delta` is given. Raise a `ModelError`, never half an answer."""
        shown = False

        def show(text: str) -> None:
            nonlocal shown
            if text and on_delta is not None:
                shown = True
                on_delta(storable_text(text))

        total = self._limits.total
        try:
            async with asyncio.timeout(total) as deadline:
                return await self._complete(request, show, stream=on_delta is not None)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # the caller's own, out of `on_delta`
            kind = AnswerCut if shown else ModelUnreachable
            raise kind(f"The model's answer was not complete within {total:g} s.") from error

    async def _complete(self, request: ChatRequest, show: OnDelta, *, stream: bool) -> ChatAnswer:
        model = request.model or self._model
        headers = {"X-Threadfold-Thread": str(request.thread_id)} if request.thread_id else {}
        body = write_request(
            request, model, stream=stream, limit_field=self._limit_field, prompt_cache=self._prompt_cache
        )
        patience = self._limits.total if request.patience is None else request.patience
        response, first_by = await self._accepted(body, headers, patience, stream=stream)
        try:
            assembly = Assembly(model, self._key)
            chunks = self._chunks(response, first_by, assembly)
            async with aclosing(chunks):
                if stream and not _is_json(response):
                    await _read_stream(chunks, assembly, show)
                else:
                    await _read_whole(chunks, assembly, show)
            return assembly.answer()
        finally:
            await response.aclose()

    async def _accepted(
        self, body: bytes, headers: dict[str, str], patience: float, *, stream: bool
    ) -> tuple[httpx.Response, float | None]:
        """Ask until the endpoint begins to answer. Also return until when the first byte has to come.

        Nothing is waited for that is farther away than `patience`.
        """
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + self._limits.total
        attempt = 1
        while True:
            first_by = loop.time() + self._limits.first_byte if stream else None
            try:
                return await self._send(body, headers, first_by), first_by
            except _NotAnsweredError as refusal:
                wait = self._retry.wait(attempt, refusal.retry_after, self._random)
                if attempt >= refusal.attempts or wait > patience or loop.time() + wait >= gives_up_at:
                    raise refusal.error from refusal.__cause__
            attempt += 1
            await self._sleep(wait)

    async def _send(self, body: bytes, headers: dict[str, str], first_by: float | None) -> httpx.Response:
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        try:
            async with asyncio.timeout_at(first_by):
                response = await self._client.send(request, stream=True)
        except TimeoutError as error:
            raise ModelUnreachable(self._no_first_byte()) from error
        except httpx.TransportError as error:
            why = shortened(without(self._key, str(error))).rstrip(".") or _wordless(error)
            said = f"The model's endpoint {self._where()} cannot be reached: {why}. Check LLM_ENDPOINT."
            raise _NotAnsweredError(ModelUnreachable(said), attempts=self._attempts_after(error)) from error
        if response.is_success:
            return response
        try:
            words = server_words(await self._error_body(response), self._key)
        finally:
            await response.aclose()
        raise _NotAnsweredError(
            failure_of(response.status_code, words),
            attempts=self._retry.attempts if worth_another(response.status_code, response.headers) else 1,
            retry_after=seconds_asked(response.headers, self._now()),
        )

    def _attempts_after(self, error: httpx.TransportError) -> int:
        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return min(self._retry.connect_attempts, self._retry.attempts)
            case httpx.ReadError() | httpx.WriteError() | httpx.RemoteProtocolError():
                # without an answer's head, mostly a server that starts or a kept connection that it has closed
                return self._retry.attempts
            case _:
                return 1

    async def _error_body(self, response: httpx.Response) -> bytes:
        """Read what the server says about its refusal, as far as it says it soon and briefly."""
        body = bytearray()
        try:
            async with asyncio.timeout(min(self._limits.silence, self._limits.connect)):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ERROR_BYTES:
                        break
        except (TimeoutError, httpx.RequestError):
            pass  # its status says the most important
        return bytes(body[:MAX_ERROR_BYTES])

    async def _chunks(
        self, response: httpx.Response, first_by: float | None, assembly: Assembly
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answer's body within the limits on time and size.

        Trouble after the model has finished is no trouble: then the body just ends here.
        """
        size = 0
        chunks = aiter(response.aiter_bytes())
        loop = asyncio.get_running_loop()
        while True:
            patience = min(LINGER, self._limits.silence) if assembly.finished else self._limits.silence
            try:
                async with asyncio.timeout_at(loop.time() + patience if size else first_by):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except (TimeoutError, httpx.RequestError) as error:
                if assembly.finished:
                    return
                if isinstance(error, TimeoutError) and not size:
                    raise ModelUnreachable(self._no_first_byte()) from error
                raise _broken(error, patience) from error
            size += len(chunk)
            if size > self._max_answer_bytes:
                raise AnswerTooLarge(f"The model's answer is larger than {self._max_answer_bytes} bytes.")
            yield chunk

    def _no_first_byte(self) -> str:
        return f"The model's endpoint {self._where()} did not begin to answer within {self._limits.first_byte:g} s."

    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.decode()}{self._url.path}"


class _NotAnsweredError(Exception):
    """An attempt that ended before an answer began. Up to `attempts` of them are worth a try."""

    def __init__(self, error: ModelError, *, attempts: int, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts
        self.retry_after = retry_after


async def _read_whole(chunks: AsyncIterator[bytes], assembly: Assembly, show: OnDelta) -> None:
    """Read one JSON object."""
    show(assembly.add(read_completion(b"".join([chunk async for chunk in chunks]))))
    assembly.finish()


async def _read_stream(chunks: AsyncIterator[bytes], assembly: Assembly, show: OnDelta) -> None:
    """Read events until the stream ends. Raise `AnswerCut` if it ends before the answer does."""
    events = EventStreamParser()
    done = False

    def take(data: list[str]) -> None:
        nonlocal done
        for text in data:
            done = done or text.strip() == "[DONE]"
            if not done:
                show(assembly.add(read_completion(text)))
            else:
                assembly.finish()

    async for chunk in chunks:
        take(events.feed(chunk))
    take(events.end())
    if not assembly.finished:
        raise AnswerCut("The model's answer ended before it was complete.")


def _broken(error: Exception, patience: float) -> ModelError:
    """Return what a failure amidst an answer means."""
    match error:
        case TimeoutError():
            return AnswerCut(f"The model's answer stopped: nothing came for {patience:g} s.")
        case httpx.DecodingError():
            return AnswerMalformed(f"The model's answer cannot be decompressed: {shortened(str(error))}")
        case _:
            why = shortened(str(error)) or _wordless(error)
            return AnswerCut(f"The connection broke before the model's answer was complete: {why}")


def _wordless(error: Exception) -> str:
    """Return words for an error of the HTTP client that has none of its own."""
    match error:
        case httpx.TimeoutException():
            return "it took too long"
        case httpx.ConnectError():
            return "no connection came about"
        case _:
            return "the connection was closed"


def completions_url(endpoint: str) -> httpx.URL:
    """Return where requests go. Raises `InvalidInput` for an endpoint that is no URL."""
    try:
        url = httpx.URL(endpoint.strip())
    except httpx.InvalidURL as error:
        raise InvalidInput("endpoint", f"is not a URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput("endpoint", "must be a URL such as http://localhost:11434/v1")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith(PATH) else path + PATH)


def _headers(key: str) -> dict[str, str]:
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput("api_key", "must be printable ASCII")
    # Compressing small chunks makes proxies hold them back.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def _is_json(response: httpx.Response) -> bool:
    """Say whether a server that was asked to stream answers as a whole all the same."""
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"
