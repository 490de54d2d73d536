"""A chat model behind any endpoint that speaks OpenAI's chat completions: OpenAI, Ollama, llama.cpp, vLLM."""

import asyncio
import random as randomness
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import httpx
from msgspec.structs import replace

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import storable_text
from domain.models.chat import (
    AnswerCut,
    AnswerMalformed,
    AnswerTooLarge,
    ChatAnswer,
    ChatRequest,
    Cost,
    ModelError,
    ModelRejectedRequest,
    ModelUnreachable,
    OnDelta,
    ToolsNotTaken,
    note_cost,
)
from infrastructure.models.hosts import is_loopback
from infrastructure.models.openai.answer import Assembly
from infrastructure.models.openai.dialects import Dialects, missed
from infrastructure.models.openai.endpoints import PLACES, TimeLimits, completions_url, origin_of
from infrastructure.models.openai.failures import MAX_WORDS, failure_of, server_words, without
from infrastructure.models.openai.refusals import STATUSES, rejected_field
from infrastructure.models.openai.request import PromptCache, write_request
from infrastructure.models.openai.response import LINGER_S, read_answer
from infrastructure.models.openai.retry import RetryPolicy, seconds_asked, worth_another
from infrastructure.models.openai.returned_data import FOREIGN_CALLS, own_data, refused_data, refuses_foreign_calls

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

LINGER_FOR_CALLS_S = 10.0
"""How long to wait for another call, where a model said that it stopped after a call and no end came."""


class OpenAIChatModel:
    """Implements `domain.models.chat.ChatModel` over HTTP.

    Refusals that may pass (see `retry.py`) are retried until an answer begins; from then on a failure is raised, as
    text may have been shown. Where an endpoint does not take a field of the request, it is asked again without it at
    once, and for a while (see `dialects.py`). No error's message contains the key.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str | None,
        model: str,
        *,
        limits: TimeLimits | None = None,
        omit: Sequence[str] = (),
        places: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        past_proxies: bool = False,
        prompt_cache: PromptCache = "automatic",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """Take a base URL such as http://localhost:11434/v1 (or the whole path), a key if it wants one, a model.

        `omit` are fields that the endpoint does not take, of `refusals.FIELDS`; `places` says where what is given
        here is set. `past_proxies`: ask the endpoint itself, whatever proxy the environment names. Raises
        `InvalidInput` for an endpoint that is no such URL, or a key that no header can carry.
        """
        self._url = completions_url(endpoint)
        self._origin = origin_of(self._url)
        self._key = (api_key or "").strip()
        self._model = model
        self._limits = limits or TimeLimits()
        self._places = {**PLACES, **(places or {})}
        self._retry = retry or RetryPolicy()
        self._max_answer_bytes = max_answer_bytes
        self._prompt_cache = prompt_cache
        self._now, self._sleep, self._random = now, sleep, random
        self._dialects = Dialects(
            omit,
            self._where(),
            self._places["omit"],
            now=now,
            prefers="max_completion_tokens" if self._url.host == "api.openai.com" else "max_tokens",
        )
        here = is_loopback(self._url.host)
        # Loading the certificates of all authorities takes longer than starting the rest; here none is needed.
        bare = here and self._url.scheme == "http"
        self._client = httpx.AsyncClient(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if bare else httpx.create_ssl_context(),
            headers=_headers(self._key, self._url),
            timeout=httpx.Timeout(None, connect=self._limits.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not (here or past_proxies),  # a proxy cannot reach this machine's own loopback
        )

    async def close(self) -> None:
        """Let connections go."""
        await self._client.aclose()

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer the request, streaming if `on_delta` is given. Raise a `ModelError`, never half an answer."""

        def show(text: str) -> None:
            if text and on_delta is not None:
                on_delta(storable_text(text))

        call = _Call(
            *(request, request.model or self._model, show, self._origin), stream=on_delta is not None, key=self._key
        )
        total = self._limits.total
        try:
            async with asyncio.timeout(total) as deadline:
                return await self._complete(call)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # the caller's own, out of `on_delta`
            kind = AnswerCut if call.asked_to_stream and call.assembly.written else ModelUnreachable
            late = kind(f"The model's answer was not complete within {total:g} s. {self._sets('total')}")
            raise call.charged(late) from error
        except ModelError as error:
            call.charged(error)
            raise
        except asyncio.CancelledError as error:  # the caller's time is over, or the turn was cancelled
            note_cost(error, call.cost)
            raise

    async def _complete(self, call: "_Call") -> ChatAnswer:
        """Ask, and ask again without each field that the endpoint does not take.

        A refusal that names none may be about the endpoint's own data: it is asked once without all of it, since such
        a thread could not go on. If it refuses that, too, its first words count.
        """
        gives_up_at = asyncio.get_running_loop().time() + self._limits.total
        why: ModelError | None = None
        unexplained: ModelError | None = None
        while True:
            omitted = self._dialects.omitted(call.model) | call.refused
            if "tools" in omitted and call.needs_tools and not self._dialects.sets("tools"):
                instead = f"{self._places['omit']}=tools asks it without."
                said = f"{call.model} takes no tools. {instead} {why or ''}"
                raise ToolsNotTaken(said.strip()) from why
            call.begin(self._dialects.fields(call.request, omitted, stream=call.asked_to_stream), omitted)
            try:
                answer = await self._attempt(call, gives_up_at)
            except _FieldRefusedError as refusal:
                call.refused |= {refusal.field}
                why = refusal.error
            except ModelRejectedRequest as error:
                own = own_data(call.request, self._origin) - omitted
                if unexplained is not None or not own:
                    raise unexplained or error from error
                unexplained = error
                call.refused |= own
            else:
                self._dialects.learn(call.model, call.refused)
                return answer

    async def _attempt(self, call: "_Call", gives_up_at: float) -> ChatAnswer:
        """Ask with some of the optional fields. Raise `_FieldRefusedError` if one of them is refused."""
        response, first_by = await self._accepted(call, gives_up_at)
        call.assembly.accepted = True
        chunks = self._chunks(response, first_by, call)
        try:
            try:
                async with aclosing(chunks):
                    await read_answer(chunks, call.assembly, call.show, streamed=call.stream)
                answer = call.assembly.answer()
            except RecursionError as error:
                raise AnswerMalformed("The model's answer is nested too deeply to be read.") from error
            return replace(answer, origin=self._origin, omitted=missed(call.request, call.fields))
        except ModelError as error:
            call.check_fields(*call.assembly.refusal, error)
            raise
        finally:
            await response.aclose()

    async def _accepted(self, call: "_Call", gives_up_at: float) -> tuple[httpx.Response, float | None]:
        """Ask until the endpoint begins to answer. Also return until when the first byte has to come.

        Nothing is waited for that is farther away than the request's patience.
        """
        request = call.request
        headers = {"X-Threadfold-Thread": str(request.thread_id)} if request.thread_id else {}
        body = write_request(request, call.model, call.fields, self._origin, call.omitted, self._prompt_cache)
        patience = self._limits.total if request.patience is None else request.patience
        loop = asyncio.get_running_loop()
        attempt = 1
        while True:
            first_by = loop.time() + self._limits.first_byte if call.stream else None
            try:
                return await self._send(body, headers, first_by), first_by
            except _NotAnsweredError as refusal:
                call.check_fields(refusal.status, refusal.words, refusal.error)
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
            why = shortened(without(self._key, str(error)), MAX_WORDS).rstrip(".") or _wordless(error)
            setting = "connect" if isinstance(error, httpx.ConnectTimeout) else "endpoint"
            said = f"The model's endpoint {self._where()} cannot be reached: {why}. Check {self._places[setting]}."
            raise _NotAnsweredError(ModelUnreachable(said), attempts=self._attempts_after(error)) from error
        if response.is_success:
            return response
        try:
            body = await self._error_body(response)
        finally:
            await response.aclose()
        raise _NotAnsweredError(
            failure_of(response.status_code, server_words(body, self._key)),
            attempts=self._retry.attempts if worth_another(response.status_code, response.headers) else 1,
            retry_after=seconds_asked(response.headers, self._now()),
            status=response.status_code,
            words=body.decode("utf-8", "replace"),
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
        self, response: httpx.Response, first_by: float | None, call: "_Call"
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answer's body within the limits on time and size.

        Trouble after the model has finished is no trouble: then the body just ends here.
        """
        size = 0
        chunks = aiter(response.aiter_bytes())
        loop = asyncio.get_running_loop()
        while True:
            patience = self._patience(call)
            try:
                async with asyncio.timeout_at(loop.time() + patience if size else first_by):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except (TimeoutError, httpx.RequestError) as error:
                if call.assembly.finished or call.assembly.broken:
                    return
                raise self._broken(error, patience, call) from error
            size += len(chunk)
            if size > self._max_answer_bytes:
                raise AnswerTooLarge(f"The model's answer is larger than {self._max_answer_bytes} bytes.")
            yield chunk

    def _patience(self, call: "_Call") -> float:
        """Return how long to wait for the next part of an answer."""
        assembly, limits = call.assembly, self._limits
        if assembly.broken or (assembly.finished and not assembly.may_go_on):
            return min(LINGER_S, limits.silence)
        if assembly.finished:
            return min(LINGER_FOR_CALLS_S, limits.silence)
        return limits.first_byte if call.stream and not assembly.has_begun else limits.silence

    def _broken(self, error: Exception, patience: float, call: "_Call") -> ModelError:
        """Return what a failure amidst an answer means."""
        match error:
            case TimeoutError() if call.stream and not call.assembly.has_begun:
                return ModelUnreachable(self._no_first_byte())
            case TimeoutError():
                return AnswerCut(
                    f"The model's answer stopped: nothing came for {patience:g} s. {self._sets('silence')}"
                )
            case httpx.DecodingError():
                return AnswerMalformed(f"The model's answer cannot be decompressed: {shortened(str(error), MAX_WORDS)}")
            case _:
                why = shortened(str(error), MAX_WORDS) or _wordless(error)
                return AnswerCut(f"The connection broke before the model's answer was complete: {why}")

    def _no_first_byte(self) -> str:
        late = f"The model's endpoint {self._where()} did not begin to answer within {self._limits.first_byte:g} s."
        return f"{late} {self._sets('first_byte')}"

    def _sets(self, limit: str) -> str:
        """Say where a time limit is set."""
        return f"{self._places[limit]} sets how long to wait."

    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.decode()}{self._url.path}"


class _Call:
    """One call of a model: what was asked, and the answer so far."""

    def __init__(self, request: ChatRequest, model: str, show: OnDelta, origin: str, *, stream: bool, key: str) -> None:
        self.request, self.model, self.show, self.origin, self.key = request, model, show, origin, key
        self.asked_to_stream = stream
        self.refused: frozenset[str] = frozenset()
        self.begin((), frozenset())

    def begin(self, fields: Sequence[str], omitted: frozenset[str]) -> None:
        """Begin an attempt with some of the optional fields, and without what is omitted."""
        self.fields, self.omitted = fields, omitted
        self.assembly = Assembly(self.model, self.key)

    @property
    def stream(self) -> bool:
        """Whether the answer is asked for as a stream."""
        return "stream" in self.fields

    @property
    def needs_tools(self) -> bool:
        """Whether the request offers tools, and is not to be answered without them."""
        return bool(self.request.tools) and self.request.needs_tools

    def check_fields(self, status: int | None, words: str, error: ModelError) -> None:
        """Raise `_FieldRefusedError` if a refusal is about one of the optional fields, or the endpoint's own data."""
        if status in STATUSES and not self.assembly.has_begun:
            about = (words, self.request, self.origin, self.omitted)
            field = refused_data(*about) or rejected_field(words, self.fields)
            if field is None and refuses_foreign_calls(*about):
                field = FOREIGN_CALLS
            if field is not None:
                raise _FieldRefusedError(field, error) from error

    @property
    def cost(self) -> Cost:
        """What has come of the call by now."""
        return Cost(self.assembly.accepted, self.assembly.usage, self.assembly.written)

    def charged(self, error: ModelError) -> ModelError:
        """Note with an error what the call has cost by now."""
        cost = self.cost
        error.accepted, error.usage = cost.accepted, error.usage or cost.usage
        error.written = cost.written + error.written
        return error


class _NotAnsweredError(Exception):
    """An attempt that ended before an answer began. Up to `attempts` of them are worth a try."""

    def __init__(
        self,
        error: ModelError,
        *,
        attempts: int,
        retry_after: float | None = None,
        status: int | None = None,
        words: str = "",
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts
        self.retry_after = retry_after
        self.status = status
        self.words = words


class _FieldRefusedError(Exception):
    """An endpoint does not take a field of the request."""

    def __init__(self, field: str, error: ModelError) -> None:
        super().__init__(str(error))
        self.field = field
        self.error = error


def _wordless(error: Exception) -> str:
    """Return words for an error of the HTTP client that has none of its own."""
    match error:
        case httpx.TimeoutException():
            return "it took too long"
        case httpx.ConnectError():
            return "no connection came about"
        case _:
            return "the connection was closed"


def _headers(key: str, url: httpx.URL) -> dict[str, str]:
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput("api_key", "must be printable ASCII")
    # Compressing small chunks makes proxies hold them back.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if not key:
        return headers
    # Azure's dated API, whose URLs name a version, takes a key in a header of its own, and only tokens as bearers.
    return {**headers, **({"api-key": key} if "api-version" in url.params else {"Authorization": f"Bearer {key}"})}
