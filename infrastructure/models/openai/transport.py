"""HTTP to one endpoint: sends requests, reads bodies within limits on time and size, and explains failures."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx

from domain.errors import InvalidInput
from domain.models.chat import AnswerCut, AnswerMalformed, AnswerTooLarge, ModelError, ModelUnreachable
from infrastructure.models.hosts import is_loopback
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.bodies import pieces
from infrastructure.models.openai.endpoints import TimeLimits, display_url
from infrastructure.models.openai.failures import failure_of, quoted, server_words
from infrastructure.models.openai.response import LINGER_S
from infrastructure.models.openai.retry import RetryPolicy, is_retryable, retry_after_seconds

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

LINGER_FOR_CALLS_S = 10.0
"""How long to wait for another tool call after a model named its finish reason, but the stream has not ended."""


@dataclass(eq=False)
class NotAnsweredError(Exception):
    """A request that failed before an answer began.

    It may be sent up to `attempts` times in all. `status` and `words` are those of the response, if there was one.
    """

    error: ModelError
    attempts: int
    retry_after: float | None = None
    status: int | None = None
    words: str = ""


@dataclass(eq=False, repr=False)
class Transport:
    """Posts requests to one URL. No error's message contains the key."""

    url: httpx.URL
    key: str
    limits: TimeLimits
    places: Mapping[str, str]
    retry: RetryPolicy
    past_proxies: bool
    now: Callable[[], datetime]

    def __post_init__(self) -> None:
        """Open the client. Raises `InvalidInput` for a key that no header can carry."""
        on_loopback = is_loopback(self.url.host)
        # Loading all authorities' certificates takes longer than the rest of the start; plain HTTP needs none.
        needs_no_certificates = on_loopback and self.url.scheme == "http"
        self.client = httpx.AsyncClient(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if needs_no_certificates else httpx.create_ssl_context(),
            headers=_headers(self.key, self.url),
            timeout=httpx.Timeout(None, connect=self.limits.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not (on_loopback or self.past_proxies),  # a proxy cannot reach this machine's loopback interface
        )

    async def send(self, body: bytes, headers: dict[str, str], first_byte_by: float | None) -> httpx.Response:
        """Send a request and return a response with a success status, its body unread.

        Raises:
            ModelUnreachable: the response did not begin by `first_byte_by`, in seconds of the event loop's clock.
            NotAnsweredError: no connection, or an error status.
        """
        request = self.client.build_request("POST", self.url, content=body, headers=headers)
        try:
            async with asyncio.timeout_at(first_byte_by):
                response = await self.client.send(request, stream=True)
        except TimeoutError as error:
            raise ModelUnreachable(self._no_first_byte()) from error
        except httpx.TransportError as error:
            why = quoted(str(error), self.key).rstrip(".") or _reason(error)
            setting = self.places["connect" if isinstance(error, httpx.ConnectTimeout) else "endpoint"]
            said = f"The model's endpoint {display_url(self.url)} cannot be reached: {why}. Check {setting}."
            raise NotAnsweredError(ModelUnreachable(said), attempts=self.retry.attempts_after(error)) from error
        if response.is_success:
            return response
        try:
            error_body = await self._error_body(response)
        finally:
            await response.aclose()
        raise NotAnsweredError(
            failure_of(response.status_code, server_words(error_body, self.key)),
            attempts=self.retry.attempts if is_retryable(response.status_code, response.headers) else 1,
            retry_after=retry_after_seconds(response.headers, self.now()),
            status=response.status_code,
            words=error_body.decode("utf-8", "replace"),
        )

    async def _error_body(self, response: httpx.Response) -> bytes:
        """Read the beginning of an error's body, within short limits: its status says the most important."""
        body = bytearray()
        try:
            async with asyncio.timeout(min(self.limits.silence, self.limits.connect)):
                async for chunk in pieces(response):
                    body += chunk
                    if len(body) > MAX_ERROR_BYTES:
                        break
        except (TimeoutError, httpx.RequestError):
            pass
        return bytes(body[:MAX_ERROR_BYTES])

    async def chunks(
        self, response: httpx.Response, first_byte_by: float | None, answer: AnswerBuilder, *, streamed: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield a response's body. `answer`, which the caller builds meanwhile, decides how long to wait for more.

        A failure after the model has finished is ignored: the body just ends there.

        Raises:
            ModelUnreachable, AnswerCut, AnswerMalformed, AnswerTooLarge: the body did not arrive, or not whole.
        """
        size = 0
        chunks = pieces(response)
        loop = asyncio.get_running_loop()
        while True:
            patience = self._patience(answer, streamed=streamed)
            try:
                async with asyncio.timeout_at(loop.time() + patience if size else first_byte_by):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except (TimeoutError, httpx.RequestError) as error:
                if answer.finished or answer.broken:
                    return
                raise self._interrupted(error, patience, has_output=answer.has_output or not streamed) from error
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise AnswerTooLarge(f"The model's answer is larger than {MAX_ANSWER_BYTES} bytes.")
            yield chunk

    def _patience(self, answer: AnswerBuilder, *, streamed: bool) -> float:
        """Return how many seconds to wait for the next chunk."""
        limits = self.limits
        if answer.broken or (answer.finished and not answer.more_calls_may_follow):
            return min(LINGER_S, limits.silence)
        if answer.finished:
            return min(LINGER_FOR_CALLS_S, limits.silence)
        return limits.first_byte if streamed and not answer.has_output else limits.silence

    def _interrupted(self, error: Exception, patience: float, *, has_output: bool) -> ModelError:
        match error:
            case TimeoutError() if not has_output:
                return ModelUnreachable(self._no_first_byte())
            case TimeoutError():
                limit = f"{self.places['silence']} sets how long to wait."
                return AnswerCut(f"The model's answer stopped: nothing came for {patience:g} s. {limit}")
            case httpx.DecodingError():
                return AnswerMalformed(f"The model's answer cannot be decompressed: {quoted(str(error), self.key)}")
            case _:
                why = quoted(str(error), self.key) or _reason(error)
                return AnswerCut(f"The connection broke before the model's answer was complete: {why}")

    def _no_first_byte(self) -> str:
        return (
            f"The model's endpoint {display_url(self.url)} did not begin to answer within "
            f"{self.limits.first_byte:g} s. {self.places['first_byte']} sets how long to wait."
        )


def _reason(error: Exception) -> str:
    """Describe an error of the HTTP client that has no message."""
    if isinstance(error, httpx.TimeoutException):
        return "it timed out"
    return "no connection could be made" if isinstance(error, httpx.ConnectError) else "the connection was closed"


def _headers(key: str, url: httpx.URL) -> dict[str, str]:
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput("api_key", "must be printable ASCII")
    # Proxies hold small chunks back in order to compress them.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if not key:
        return headers
    # Azure's dated API, whose URLs name a version, takes a key in a header of its own, and only tokens as bearers.
    return {**headers, **({"api-key": key} if "api-version" in url.params else {"Authorization": f"Bearer {key}"})}
