"""What does not become an answer has a name, and is never shown as one."""

import asyncio
from typing import Any

import pytest

from domain.models.chat import (
    AnswerCut,
    AnswerMalformed,
    AnswerTooLarge,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelRejectedRequest,
    ModelUnknown,
    ModelUnreachable,
)
from infrastructure.models.openai import transport
from infrastructure.models.openai.endpoints import TimeLimits
from infrastructure.models.openai.retry import RetryPolicy
from tests.fakes.openai_server import (
    Cut,
    OpenAIServer,
    Pause,
    Reply,
    chunk,
    completion,
    events,
    refusal,
    stream,
)
from tests.support.openai import ASK, KEY, Naps, client, raised_by, streamed, whole


class TestAnAnswerThatFails:
    @pytest.mark.parametrize(
        "steps",
        [[], [chunk("Half")], [chunk("Half"), Cut()], [chunk("Half"), b'data: {"choices', Cut()], [b": ping\n\n"]],
    )
    async def test_is_cut_if_it_ends_before_it_says_so(self, steps: list[Any]) -> None:
        await raised_by(AnswerCut, events(*steps))

    @pytest.mark.parametrize(
        "error", [{"message": "slot lost"}, "slot lost", {"error": {"message": "slot lost"}}, {"code": "slot lost"}]
    )
    async def test_is_cut_if_the_server_gives_up(self, error: Any) -> None:
        shown: list[str] = []
        assert "slot lost" in await raised_by(AnswerCut, events(chunk("Half"), {"error": error}, "[DONE]"), shown=shown)
        assert shown == ["Half"]

    async def test_is_cut_if_it_falls_silent(self) -> None:
        text = await raised_by(AnswerCut, events(chunk("Half"), Pause(5)), limits=TimeLimits(silence=0.1))
        assert "0.1 s" in text

    async def test_is_cut_if_it_never_comes_to_an_end(self) -> None:
        slow = events(*[step for _ in range(99) for step in (chunk("on and "), Pause(0.02))])
        assert "0.2 s" in await raised_by(AnswerCut, slow, limits=TimeLimits(total=0.2))

    @pytest.mark.parametrize("data", ["{", "nonsense", "[1]", '{"choices": 3}'])
    async def test_is_malformed_if_a_chunk_is(self, data: str) -> None:
        await raised_by(AnswerMalformed, events(chunk("Half"), data, "[DONE]"))

    async def test_is_malformed_if_it_is_nothing_at_all(self) -> None:
        await raised_by(AnswerMalformed, events("[DONE]"))

    @pytest.mark.parametrize("endless", [events(chunk("x" * 900), chunk("x" * 900), Pause(9)), completion("x" * 1800)])
    async def test_is_not_read_beyond_its_size_limit(self, endless: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1024)
        assert "1024 bytes" in await raised_by(AnswerTooLarge, endless)

    @pytest.mark.parametrize("late", [Reply(before=[Pause(5)]), events(Pause(5)), Reply(status=503, before=[Pause(5)])])
    async def test_counts_as_unreachable_if_it_does_not_begin(self, late: Reply) -> None:
        async with OpenAIServer(late) as server, client(server, limits=TimeLimits(first_byte=0.1)) as model:
            with pytest.raises(ModelUnreachable, match=r"0\.1 s"):
                await model.complete(ASK, lambda _: None)
        assert len(server.requests) == 1

    async def test_counts_as_unreachable_if_the_total_time_is_up_before_anything_is_shown(self) -> None:
        with pytest.raises(ModelUnreachable, match=r"0\.1 s"):
            await whole(Reply(before=[Pause(5)]), limits=TimeLimits(total=0.1))

    async def test_is_not_asked_for_again_once_it_began(self) -> None:
        async with OpenAIServer(events(chunk("Half"), Cut())) as server, client(server) as model:
            with pytest.raises(AnswerCut):
                await model.complete(ASK, lambda _: None)
        assert len(server.requests) == 1

    async def test_passes_on_what_the_listener_raises(self) -> None:
        def listen(_: str) -> None:
            raise TimeoutError("mine")

        async with OpenAIServer() as server, client(server) as model:
            with pytest.raises(TimeoutError, match="mine"):
                await model.complete(ASK, listen)


class TestARefusal:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, ModelRejectedRequest),
            (401, ModelRefused),
            (403, ModelRefused),
            (404, ModelUnknown),
            (302, ModelUnknown),
            (413, ModelRejectedRequest),
            (422, ModelRejectedRequest),
            (501, ModelOverloaded),
        ],
    )
    async def test_has_a_name_and_is_not_repeated(self, status: int, kind: type[ModelError]) -> None:
        async with OpenAIServer(refusal(status, "because")) as server, client(server) as model:
            with pytest.raises(kind, match=f"HTTP {status} because") as caught:
                await model.complete(ASK)
        assert type(caught.value) is kind
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
    async def test_that_may_pass_is_retried(self, status: int) -> None:
        naps = Naps()
        answer = await streamed(refusal(status), refusal(status), stream("At last"), sleep=naps)
        assert answer.content == "At last"
        assert naps.taken == [0.5, 1.0]

    async def test_is_retried_only_so_often(self) -> None:
        naps = Naps()
        async with OpenAIServer(otherwise=refusal(503, "busy")) as server, client(server, sleep=naps) as model:
            with pytest.raises(ModelOverloaded, match="busy"):
                await model.complete(ASK)
        assert len(server.requests) == 3

    async def test_is_not_retried_if_the_server_says_that_it_is_no_use(self) -> None:
        await raised_by(ModelOverloaded, refusal(429, x_should_retry="false"))

    @pytest.mark.parametrize(
        ("asked", "waited"),
        [
            ("2", 2.0),
            ("2.5", 2.5),
            ("0", 0.5),
            ("9999", 30.0),
            ("Thu, 01 Jan 2026 12:00:07 GMT", 7.0),
            ("Thu, 01 Jan 2026 11:00:00 GMT", 0.5),
            ("Thu, 01 Jan 2026 12:00:07", 7.0),
            ("soon", 0.5),
            ("-3", 0.5),
            ("²", 0.5),
            ("", 0.5),
        ],
    )
    async def test_is_retried_when_the_server_asks_for_it(self, asked: str, waited: float) -> None:
        naps = Naps()
        await whole(refusal(429, retry_after=asked), sleep=naps)
        assert naps.taken == [waited]

    async def test_is_raised_at_once_if_the_wait_would_outlast_the_total_time(self) -> None:
        naps = Naps()
        script = refusal(429, "slow down", retry_after="20")
        assert "slow down" in await raised_by(ModelOverloaded, script, sleep=naps, limits=TimeLimits(total=10))
        assert naps.taken == []

    async def test_waits_a_random_share_of_a_bound_that_doubles(self) -> None:
        naps = Naps()
        policy = RetryPolicy(attempts=6, base=1.0, cap=5.0)
        script = [refusal(503)] * 5
        await whole(*script, sleep=naps, random=lambda: 0.5, retry=policy)
        assert naps.taken == [0.5, 1.0, 2.0, 2.5, 2.5]

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"error": {"message": "no such model"}}', "no such model"),
            (b'{"error": "no such model"}', "no such model"),
            (b'{"object": "error", "message": "no such model"}', "no such model"),
            (b'{"detail": [{"msg": "field required"}]}', "field required"),
            (b"no\n such  model", "no such model"),
            (b"<html>secret gateway</html>", "HTTP 400"),
            (b"", "HTTP 400"),
            (b"\xff\x00", "HTTP 400"),
            (b"7", "7"),
        ],
    )
    async def test_tells_what_the_server_said(self, body: bytes, said: str) -> None:
        text = await raised_by(ModelRejectedRequest, Reply([body], 400))
        assert said in text
        assert "gateway" not in text

    async def test_is_brief(self) -> None:
        assert len(await raised_by(ModelRejectedRequest, refusal(400, "x" * 100_000))) < 400

    @pytest.mark.parametrize(("begins", "silence"), [(b"{", 0.1), (b"x" * 70_000, 40.0)], ids=["silent", "endless"])
    async def test_ends_the_connection_if_its_explanation_has_no_end(self, begins: bytes, silence: float) -> None:
        reply, limits = Reply([begins, Pause(60)], 401), TimeLimits(silence=silence)
        async with OpenAIServer(reply) as server, client(server, limits=limits) as model:
            with pytest.raises(ModelRefused):
                await asyncio.wait_for(model.complete(ASK), 20)
            await asyncio.wait_for(server.requests[0].left.wait(), 20)

    async def test_does_not_wait_for_its_explanation(self) -> None:
        silent = Reply([b"{", Pause(5)], 401)
        assert "401" in await raised_by(ModelRefused, silent, limits=TimeLimits(silence=0.1))

    @pytest.mark.parametrize("before", ["", "y" * 295])
    async def test_never_tells_the_key(self, before: str) -> None:
        said = f"{before}bad key {KEY}"
        assert "sk-" not in await raised_by(ModelRefused, refusal(401, said))
        assert "sk-" not in await raised_by(ModelRefused, Reply([said.encode()], 401))
        assert "sk-" not in await raised_by(AnswerCut, events({"error": {"message": said}}))
