"""A provider that is down, slow, overloaded, broken or lying, and another one behind it; over real HTTP."""

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.application.turns.model_registry import ModelRegistry
from domain.models.chat import ModelOverloaded, ModelUnreachable, Usage
from domain.models.circuit_breaker import CircuitBreaker
from domain.models.routing import ModelSpec, Policy
from domain.models.usage_check import check_usage
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.models.openai.endpoints import TimeLimits
from tests.fakes.openai_server import (
    USAGE,
    Cut,
    OpenAIServer,
    Otherwise,
    Pause,
    Reply,
    chunk,
    completion,
    events,
    refusal,
    stream,
)
from tests.support.calling import Caller

SHORT = TimeLimits(connect=1, first_byte=1, silence=1, total=20)
BUSY = 20.0
"""Seconds that a busy machine may take longer; what must not be waited for takes a minute."""


def nobody() -> str:
    """Find an endpoint where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


class Client(Caller):
    """A caller with a clock that is set by hand."""

    now = 0.0

    @property
    def shown(self) -> str:
        """What is shown of the answer, after what was taken back."""
        since = len(self.seen) - self.seen[::-1].index("retract") if "retract" in self.seen else 0
        texts = (each for each in self.seen[since:] if isinstance(each, str))
        return "".join(text for text in texts if not text.startswith(("reserve ", "release ", "charge ")))

    def noted(self, *kinds: str) -> list[str]:
        """Name the models of which something was noted."""
        words = [each.split() for each in self.seen if isinstance(each, str)]
        return [name for kind, *names in words for name in names if kind in kinds]


@asynccontextmanager
async def caller(*endpoints: str, limits: TimeLimits = SHORT, rest: float = 30.0) -> AsyncIterator[Client]:
    """Ask the models a, b and so on, each at an endpoint of its own."""
    names = "abc"[: len(endpoints)]
    policy = Policy({name: ModelSpec(f"at-{name}", f"model-{name}") for name in names}, tuple(names))
    providers = {
        f"at-{name}": OpenAIChatModel(endpoint, "sk-secret", "unused", limits=limits)
        for name, endpoint in zip(names, endpoints, strict=True)
    }
    asks = Client(ModelRegistry(policy, providers, lambda: CircuitBreaker(after=2, rest=rest), clock=lambda: asks.now))
    try:
        yield asks
    finally:
        await asks.models.close()


TROUBLE: dict[str, tuple[Otherwise, str, int, float]] = {
    "never answers": (Reply(before=[Pause(60)]), "did not begin to answer within 1 s", 1, 1.0),
    "never begins its body": (events(Pause(60)), "did not begin to answer within 1 s", 1, 1.0),
    "stalls in the middle": (events(chunk("Hal"), Pause(60)), "nothing came for 1 s", 1, 1.0),
    "cuts in the middle": (events(chunk("Hal"), Cut()), "broke before", 1, 1.0),
    "hangs up": (Reply(before=[Cut()]), "cannot be reached", 3, 2.5),
    "wants a long wait": (refusal(429, "slow down", retry_after="3600"), "slow down", 1, 0.5),
    "wants a wait of some seconds": (refusal(429, "slow down", retry_after="5"), "slow down", 1, 0.5),
    "fails": (refusal(500, "oops"), "oops", 3, 2.5),
    "does not want the key": (refusal(401, "who are you, sk-secret?"), "who are you", 1, 0.5),
    "does not know the model": (refusal(404, "no such model"), "no such model", 1, 0.5),
    "does not want the request": (refusal(400, "no"), "HTTP 400 no", 1, 0.5),
    "talks HTML": (Reply([b"<html>hi</html>"]), "not a chat completion", 1, 0.5),
    "ends before its answer": (events(chunk("Hal")), "ended before", 1, 0.5),
    "gives up in the middle": (events(chunk("Hal"), {"error": {"message": "GPU on fire"}}), "GPU on fire", 1, 0.5),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_the_second_provider_answers_where_the_first(trouble: str) -> None:
    reply, told, times, soon = TROUBLE[trouble]
    async with (
        OpenAIServer(otherwise=reply) as first,
        OpenAIServer(otherwise=stream("He", "llo")) as second,
        caller(first.endpoint, second.endpoint) as asks,
    ):
        began = time.monotonic()
        answered = await asks.ask()
        took = time.monotonic() - began

    assert (answered.answer.content, answered.name, answered.provider) == ("Hello", "b", "at-b")
    assert answered.because == "a of at-a did not answer"
    assert asks.shown == "Hello"
    assert asks.seen.count("retract") == ("middle" in trouble or "before its answer" in trouble)
    [failure] = asks.failures
    assert (failure.model, failure.provider, failure.because) == ("model-a", "at-a", "")
    assert told in failure.error
    assert "sk-secret" not in failure.error
    assert asks.noted("reserve") == asks.noted("release", "charge") == ["a", "b"]
    assert 1 <= len(first.requests) <= times
    assert [request.body["model"] for request in second.requests] == ["model-b"]
    assert took < soon + BUSY


async def test_the_second_provider_answers_where_nobody_listens_at_the_first() -> None:
    async with OpenAIServer() as second, caller(nobody(), second.endpoint) as asks:
        began = time.monotonic()
        answered = await asks.ask()

    assert answered.name == "b"
    assert "cannot be reached" in asks.failures[0].error
    assert time.monotonic() - began < BUSY


async def test_the_second_provider_answers_where_the_first_lets_nobody_in() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(8)]  # who is not accepted fills the queue: later ones wait
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(full.getsockname())
        endpoint = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        async with OpenAIServer() as second, caller(endpoint, second.endpoint) as asks:
            began = time.monotonic()
            assert (await asks.ask()).name == "b"
        for each in waiting:
            each.close()
    assert time.monotonic() - began < BUSY


async def test_a_provider_that_drips_on_and_on_is_left_in_time_for_the_next() -> None:
    drip: Sequence[Any] = [step for _ in range(600) for step in (chunk("x"), Pause(0.1))]
    async with (
        OpenAIServer(otherwise=events(*drip)) as first,
        OpenAIServer(otherwise=stream("Hi")) as second,
        caller(first.endpoint, second.endpoint) as asks,
    ):
        began = time.monotonic()
        answered = await asks.ask(within=4)
        took = time.monotonic() - began

    assert answered.name == "b"
    assert (asks.seen.count("retract"), asks.shown) == (1, "Hi")
    assert "did not answer within 2.0 s" in asks.failures[0].error
    assert took < 4


async def test_the_only_provider_is_waited_for_as_before() -> None:
    async with OpenAIServer(refusal(429, retry_after="1.2"), stream("Hi")) as server, caller(server.endpoint) as asks:
        assert (await asks.ask()).answer.content == "Hi"

    assert (len(server.requests), asks.failures) == (2, [])


async def test_if_all_are_down_that_is_told_well_within_the_limit() -> None:
    slow = Reply(before=[Pause(60)])
    patient = TimeLimits()
    async with (
        OpenAIServer(otherwise=slow) as first,
        OpenAIServer(otherwise=slow) as second,
        caller(first.endpoint, second.endpoint, nobody(), limits=patient) as asks,
    ):
        began = time.monotonic()
        with pytest.raises(ModelUnreachable, match="cannot be reached"):
            await asks.ask(within=1.5)

    assert time.monotonic() - began < BUSY
    assert [failure.provider for failure in asks.failures] == ["at-a", "at-b", "at-c"]
    assert asks.noted("release") == ["a", "b", "c"]


async def test_a_dead_provider_is_not_asked_again_and_again_but_after_its_rest() -> None:
    async with (
        OpenAIServer(otherwise=refusal(503)) as first,
        OpenAIServer() as second,
        caller(first.endpoint, second.endpoint) as asks,
    ):
        await asks.ask()
        await asks.ask()
        asked = len(first.requests)
        third = await asks.ask()
        assert len(first.requests) == asked
        assert third.because == "a of at-a is resting"

        asks.now = 31.0
        await asks.ask()
        assert len(first.requests) > asked

        first._otherwise = stream("I am back")
        asks.now = 62.0
        assert (await asks.ask()).answer.content == "I am back"
        assert (await asks.ask()).because == ""

    assert len(asks.failures) == 3


async def test_a_dead_provider_is_asked_all_the_same_if_there_is_no_other() -> None:
    async with OpenAIServer(otherwise=refusal(503)) as server, caller(server.endpoint) as asks:
        for _ in range(4):
            with pytest.raises(ModelOverloaded):
                await asks.ask(within=10)

    assert len(asks.failures) == 4


LIES: dict[str, Any] = {
    "nothing": {"prompt_tokens": 0, "completion_tokens": 0},
    "less": {"prompt_tokens": -5, "completion_tokens": -5},
    "too much": {"prompt_tokens": 10**12, "completion_tokens": 10**12},
    "absurd": {"prompt_tokens": 10**30, "completion_tokens": 3},
    "null": None,
    "half": {"prompt_tokens": 7},
    "words": {"prompt_tokens": "many", "completion_tokens": 3},
    "fractions": {"prompt_tokens": 7.5, "completion_tokens": float("nan")},
    "no object": "lots",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_counts_whatever_its_endpoint_says_that_it_used(lie: str, *, streams: bool) -> None:
    usage = LIES[lie]
    told = {**USAGE, "usage": usage}
    reply = events(chunk("Hello"), chunk(finish="stop"), told, "[DONE]") if streams else completion(usage=usage)
    async with OpenAIServer(otherwise=reply) as first, caller(first.endpoint, nobody()) as asks:
        answered = await asks.ask()

    assert (answered.name, answered.answer.content, asks.failures) == ("a", "Hello", [])
    found = check_usage(answered.answer.usage, 9, 1, None)
    assert (found.usage, found.estimated) == (Usage(9, 1), True)
    assert (found.reported is None) == (lie in {"null", "half", "words", "fractions", "no object"})


async def test_honest_usage_is_believed() -> None:
    async with OpenAIServer(otherwise=stream("Hello")) as first, caller(first.endpoint, nobody()) as asks:
        answered = await asks.ask()

    assert check_usage(answered.answer.usage, 9, 1, None) == (Usage(7, 3), False, None)
