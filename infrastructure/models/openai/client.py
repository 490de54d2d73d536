"""A chat model behind any endpoint that speaks OpenAI's chat completions: OpenAI, Ollama, llama.cpp, vLLM."""

import asyncio
import random as randomness
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime

import httpx
from msgspec.structs import replace

from domain.json import storable_text
from domain.models import chat
from domain.models.chat import ChatAnswer, ChatRequest, ModelError, OnDelta
from infrastructure.models.openai import refusals
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.dialects import LIMITS, Dialects, missed
from infrastructure.models.openai.endpoints import PLACES, TimeLimits, completions_url, display_url, origin_of
from infrastructure.models.openai.provider_data import own_data
from infrastructure.models.openai.request import PromptCache, write_request
from infrastructure.models.openai.response import read_answer
from infrastructure.models.openai.response_format import SCHEMA, schema_name
from infrastructure.models.openai.retry import RetryPolicy
from infrastructure.models.openai.transport import NotAnsweredError, Transport


@dataclass(eq=False, repr=False)
class OpenAIChatModel:
    """Implements `domain.models.chat.ChatModel` over HTTP.

    `endpoint` is a base URL such as http://localhost:11434/v1, or the whole path. `omit` are fields of
    `refusals.FIELDS` that it does not take. `places` names the setting of each of these arguments, for errors.
    `past_proxies`: ignore the proxies that the environment names. Raises `InvalidInput` for an endpoint that is no URL,
    or a key that no header can carry.

    Transient failures (see `retry.py`) are retried with backoff until an answer begins. From then on a failure is
    raised, because text may have been shown. If the endpoint refuses a field of the request, the request is sent
    again without it at once, and for an hour after that (see `dialects.py`). No error's message contains the key.
    """

    endpoint: str
    api_key: str | None
    model: str
    _: KW_ONLY
    limits: TimeLimits = field(default_factory=TimeLimits)
    omit: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=lambda: PLACES)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    past_proxies: bool = False
    prompt_cache: PromptCache = "automatic"
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = randomness.random

    def __post_init__(self) -> None:
        """Open the connection pool."""
        url = completions_url(self.endpoint)
        key = (self.api_key or "").strip()
        names = LIMITS[::-1] if url.host == "api.openai.com" else LIMITS
        self._origin = origin_of(url)
        self._transport = Transport(url, key, self.limits, self.places, self.retry, self.past_proxies, self.now)
        self._dialects = Dialects(frozenset(self.omit), display_url(url), self.places["omit"], self.now, names)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.client.aclose()

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer the request, streaming if `on_delta` is given. Raise a `ModelError`, never return half an answer."""

        def show(text: str) -> None:
            if text and on_delta is not None:
                on_delta(storable_text(text))

        model = request.model or self.model
        call = _Call(request, model, show, on_delta is not None, AnswerBuilder(model))
        total = self.limits.total
        try:
            async with asyncio.timeout(total) as deadline:
                return await self._complete(call)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # the caller's own, out of `on_delta`
            kind = chat.AnswerCut if call.streaming and call.answer.written else chat.ModelUnreachable
            setting = f"{self.places['total']} sets how long to wait."
            late = kind(f"The model's answer was not complete within {total:g} s. {setting}")
            raise call.charged(late) from error
        except ModelError as error:
            call.charged(error)
            raise
        except asyncio.CancelledError as error:  # the caller's time is over, or the turn was cancelled
            chat.note_cost(error, chat.Cost(call.answer.accepted, call.answer.usage, call.answer.written))
            raise

    async def _complete(self, call: "_Call") -> ChatAnswer:
        """Ask, and ask again without each field that the endpoint refuses.

        A refusal that names no field may be about the endpoint's own data. Without it such a thread could go on, so
        the request is sent once more without all of it. If that is refused too, the first refusal is raised.
        """
        gives_up_at = asyncio.get_running_loop().time() + self.limits.total
        why: ModelError | None = None
        unexplained: ModelError | None = None
        while True:
            call.omitted = omitted = self._dialects.omitted(call.model) | call.refused
            needs_tools = call.request.needs_tools and call.request.tools
            if "tools" in omitted and needs_tools and "tools" not in self._dialects.by_setting:
                instead = f"Set {self.places['omit']}=tools to ask it without them."
                said = f"{call.model} takes no tools. {instead} {why or ''}"
                raise chat.ToolsNotSupported(said.strip()) from why
            call.fields = self._dialects.fields(call.request, omitted, stream=call.streaming)
            call.answer = AnswerBuilder(call.model, self._transport.key)
            try:
                answer = await self._attempt(call, gives_up_at)
            except _FieldRefusedError as refusal:
                call.refused |= {refusal.field}
                why = refusal.error
            except chat.ModelRejectedRequest as error:
                own = own_data(call.request, self._origin) - omitted
                if unexplained is not None or not own:
                    raise unexplained or error from error
                unexplained = error
                call.refused |= own
            else:
                self._dialects.learn(call.model, call.refused)
                return answer

    async def _attempt(self, call: "_Call", gives_up_at: float) -> ChatAnswer:
        """Ask with the optional fields of the call. Raise `_FieldRefusedError` if the endpoint refuses one of them."""
        response, first_byte_by = await self._accepted(call, gives_up_at)
        call.answer.accepted = True
        chunks = self._transport.chunks(response, first_byte_by, call.answer, streamed=call.streamed)
        try:
            async with aclosing(chunks):
                await read_answer(chunks, call.answer, call.show, streamed=call.streamed)
            answer = call.answer.build()
            return replace(answer, origin=self._origin, omitted=missed(call.request, call.fields))
        except RecursionError as error:
            raise chat.AnswerMalformed("The model's answer is nested too deeply to be read.") from error
        except ModelError as error:
            self._check_fields(call, *call.answer.refusal, error)
            raise
        finally:
            await response.aclose()

    async def _accepted(self, call: "_Call", gives_up_at: float) -> tuple[httpx.Response, float | None]:
        """Send the request, with retries, until a response with a success status begins.

        Returns also by when its first byte is due. A retry that would come later than the request's patience allows
        is not waited for.
        """
        request = call.request
        headers = {"X-Threadfold-Thread": str(request.thread_id)} if request.thread_id else {}
        body = write_request(request, call.model, call.fields, self._origin, call.omitted, self.prompt_cache)
        patience = self.limits.total if request.patience is None else request.patience
        loop = asyncio.get_running_loop()
        attempt = 1
        while True:
            first_byte_by = loop.time() + self.limits.first_byte if call.streamed else None
            try:
                return await self._transport.send(body, headers, first_byte_by), first_byte_by
            except NotAnsweredError as failure:
                self._check_fields(call, failure.status, failure.words, failure.error)
                wait = self.retry.wait(attempt, failure.retry_after, self.random)
                if attempt >= failure.attempts or wait > patience or loop.time() + wait >= gives_up_at:
                    raise failure.error from failure.__cause__
            attempt += 1
            await self.sleep(wait)

    def _check_fields(self, call: "_Call", status: int | None, words: str, error: ModelError) -> None:
        """Raise `_FieldRefusedError` if a refusal is about one of the optional fields, or the endpoint's own data."""
        if status in refusals.STATUSES and not call.answer.has_output:
            about = (words, call.request, self._origin, call.omitted)
            refused = refusals.refused_data(*about) or refusals.rejected_field(words, call.fields)
            if refused is None and refusals.refuses_foreign_calls(*about):
                refused = refusals.FOREIGN_CALLS
            if refused == SCHEMA and call.request.output is not None:
                refused = schema_name(call.request.output)
            if refused is not None:
                raise _FieldRefusedError(refused, error) from error


@dataclass
class _Call:
    """One call of a model: the request, the fields that were refused, and the answer of the current attempt.

    `streaming`: the caller wants a stream. `fields` are the optional fields of the attempt, `omitted` what it leaves
    out.
    """

    request: ChatRequest
    model: str
    show: OnDelta
    streaming: bool
    answer: AnswerBuilder
    refused: frozenset[str] = frozenset()
    fields: Sequence[str] = ()
    omitted: frozenset[str] = frozenset()

    @property
    def streamed(self) -> bool:
        """Whether this attempt asks the endpoint for a stream: not where it refuses to."""
        return "stream" in self.fields

    def charged(self, error: ModelError) -> ModelError:
        """Return the error with what the call has cost so far."""
        error.accepted, error.usage = self.answer.accepted, error.usage or self.answer.usage
        error.written = self.answer.written + error.written
        return error


@dataclass(eq=False)
class _FieldRefusedError(Exception):
    """An endpoint does not take a field of the request."""

    field: str
    error: ModelError
