"""A model call and its fallbacks: which model is asked, what is recorded, when it ends."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from domain.application.turns.model_registry import ModelRegistry
from domain.errors import PromptTooLarge, TurnIsOver
from domain.models.chat import (
    AnswerCut,
    AnswerTooLarge,
    ChatAnswer,
    ChatRequest,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelRejectedRequest,
    ModelUnreachable,
    OnDelta,
    ToolsNotSupported,
)
from domain.models.circuit_breaker import CircuitBreaker
from domain.models.routing import ModelSpec, Policy
from domain.thread.events import ModelFailed
from tests.support.calling import Caller
from tests.support.runtime import says


@dataclass
class Line:
    """A model that shows something, takes its time, and then answers or fails; the last end holds for good."""

    ends: list[ChatAnswer | Exception]
    shows: str = ""
    seconds: float = 0.0
    asked: list[ChatRequest] = field(default_factory=list)

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.asked.append(request)
        if self.shows and on_delta:
            on_delta(self.shows)
        await asyncio.sleep(self.seconds)
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end

    async def close(self) -> None:
        return


def fails(*errors: Exception, **more: Any) -> Line:
    return Line(list(errors or [ModelOverloaded("busy")]), **more)


def answers(text: str = "Hi", **more: Any) -> Line:
    return Line([says(text)], **more)


class Scene(Caller):
    """Models by their names, and a caller that asks them."""

    def __init__(self, **lines: Line) -> None:
        self.now = 0.0
        self.lines = lines
        specs = {name: ModelSpec(f"p-{name}", f"the-{name}") for name in lines}
        providers = {f"p-{name}": line for name, line in lines.items()}
        policy = Policy(specs, tuple(lines))
        super().__init__(
            ModelRegistry(policy, providers, lambda: CircuitBreaker(after=3, rest=30), clock=lambda: self.now)
        )

    def times(self) -> list[int]:
        return [len(line.asked) for line in self.lines.values()]


class TestModelsWithoutTools:
    async def test_others_are_asked_before_one_answers_without(self) -> None:
        large, small = Line([ToolsNotSupported("no tools"), says("Hi")]), Line([ToolsNotSupported("no tools either")])
        scene = Scene(large=large, small=small)

        answered = await scene.ask()

        assert (answered.name, answered.answer.content) == ("large", "Hi")
        assert answered.because == "large of p-large takes no tools, small of p-small takes no tools"
        assert [request.needs_tools for request in (*large.asked, *small.asked)] == [True, False, True]
        assert [fact.error for fact in scene.failures] == ["no tools", "no tools either"]

    async def test_one_that_has_some_answers_for_one_that_has_none(self) -> None:
        scene = Scene(large=Line([ToolsNotSupported("no tools")]), small=answers("Hello"))
        assert (await scene.ask()).name == "small"

    async def test_the_only_one_answers_at_once(self) -> None:
        scene = Scene(large=answers("Hi"))
        await scene.ask()
        assert not scene.lines["large"].asked[0].needs_tools

    async def test_an_answer_without_tools_is_better_than_none(self) -> None:
        scene = Scene(large=Line([ToolsNotSupported("no tools"), says("Hi")]), small=fails())
        assert (await scene.ask()).name == "large"
        assert scene.times() == [2, 1]


class TestOneAfterTheOther:
    async def test_the_first_that_answers_is_enough(self) -> None:
        scene = Scene(large=answers("Hi"), small=answers())

        answered = await scene.ask(because="the agent asks for it")

        assert answered.answer.content == "Hi"
        assert (answered.name, answered.provider, answered.because) == ("large", "p-large", "the agent asks for it")
        assert scene.seen == ["reserve large", "charge large"]
        assert scene.times() == [1, 0]

    async def test_the_next_is_asked_once_the_first_is_released_and_reported(self) -> None:
        scene = Scene(large=fails(), small=answers())

        answered = await scene.ask(because="a rule says so")

        assert (answered.name, answered.because) == ("small", "large of p-large did not answer")
        failure = scene.seen[2]
        assert isinstance(failure, ModelFailed)
        assert (failure.model, failure.provider, failure.error, failure.because) == (
            "the-large",
            "p-large",
            "busy",
            "a rule says so",
        )
        assert scene.seen == ["reserve large", "release large", failure, "reserve small", "charge small"]

    @pytest.mark.parametrize("kind", [ModelUnreachable, ModelRefused, ModelRejectedRequest, AnswerTooLarge])
    async def test_whatever_it_was_that_went_wrong(self, kind: type[ModelError]) -> None:
        assert (await Scene(large=fails(kind("no")), small=answers()).ask()).name == "small"

    async def test_half_an_answer_is_taken_back_before_the_failure_is_told(self) -> None:
        scene = Scene(large=fails(AnswerCut("cut"), shows="Hal"), small=answers(shows="Hi"))

        await scene.ask()

        kinds = [each if isinstance(each, str) else "failed" for each in scene.seen]
        assert kinds[:5] == ["reserve large", "Hal", "charge large", "retract", "failed"]
        assert kinds[5:] == ["reserve small", "Hi", "charge small"]

    async def test_if_nobody_answers_the_last_error_is_raised_and_each_was_told(self) -> None:
        scene = Scene(large=fails(), small=fails(ModelRefused("no key")))

        with pytest.raises(ModelRefused, match="no key"):
            await scene.ask()

        assert [failure.because for failure in scene.failures] == ["", "large of p-large did not answer"]
        assert scene.seen[-1] == scene.failures[1]

    async def test_only_where_others_are_left_no_long_wait_is_allowed(self) -> None:
        scene = Scene(large=fails(), small=answers())

        await scene.ask()

        assert [line.asked[0].patience for line in scene.lines.values()] == [1.0, None]
        assert [line.asked[0].model for line in scene.lines.values()] == ["the-large", "the-small"]

    async def test_an_answer_may_be_as_long_as_the_shorter_of_two_limits(self) -> None:
        model = answers()
        caller = Caller(ModelRegistry(Policy({"m": ModelSpec("p", "m", max_answer=100)}, ("m",)), {"p": model}))
        for caller.room in (None, 50, 500):
            await caller.ask()
        assert [request.max_tokens for request in model.asked] == [100, 50, 100]


class TestWhatTheCallerRaises:
    async def test_ends_the_call(self) -> None:
        scene = Scene(large=fails(), small=answers())
        scene.refuse["small"] = TurnIsOver()

        with pytest.raises(TurnIsOver):
            await scene.ask()

        assert scene.times() == [1, 0]

    async def test_ends_it_when_a_failure_cannot_be_recorded_too(self) -> None:
        scene = Scene(large=fails(), small=answers())
        scene.lost = True
        with pytest.raises(TurnIsOver):
            await scene.ask()

        assert scene.times() == [1, 0]

    async def test_ends_it_when_a_listener_times_out_of_its_own(self) -> None:
        def listen(_: str) -> None:
            raise TimeoutError("mine")

        scene = Scene(large=answers(shows="Hi"), small=answers())
        with pytest.raises(TimeoutError, match="mine"):
            await scene.ask("large", on_delta=listen)

    async def test_but_a_prompt_that_does_not_fit_may_fit_another_model(self) -> None:
        scene = Scene(small=answers(), large=answers())
        scene.refuse["small"] = PromptTooLarge(9_000, 8_000)

        answered = await scene.ask()

        assert (answered.name, answered.because) == ("large", "small of p-small takes no prompt of that length")
        assert [each.error for each in scene.failures] == [str(PromptTooLarge(9_000, 8_000))]

    async def test_and_a_prompt_that_does_not_fit_the_last_model_hides_no_other_error(self) -> None:
        scene = Scene(large=fails(ModelOverloaded("busy")), small=answers())
        scene.refuse["small"] = PromptTooLarge(9_000, 8_000)

        with pytest.raises(ModelOverloaded, match="busy"):
            await scene.ask()

    async def test_nor_is_one_that_fits_nowhere_hidden(self) -> None:
        scene = Scene(large=answers())
        scene.refuse["large"] = PromptTooLarge(9_000, 8_000)

        with pytest.raises(PromptTooLarge):
            await scene.ask()

    async def test_a_call_that_is_cancelled_goes_on_nowhere_and_is_charged(self) -> None:
        scene = Scene(large=answers(seconds=60), small=answers())
        task = asyncio.create_task(scene.ask())
        while not scene.lines["large"].asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert scene.seen == ["reserve large", "charge large"]
        assert scene.times() == [1, 0]


class TestTime:
    async def test_is_shared_so_that_all_can_be_asked(self) -> None:
        scene = Scene(large=answers(seconds=60), small=answers(seconds=60), tiny=answers())
        started = time.monotonic()

        answered = await scene.ask(within=3)

        assert answered.name == "tiny"
        assert answered.because == "large of p-large did not answer, small of p-small did not answer"
        assert time.monotonic() - started < 3
        assert len(scene.failures) == 2

    async def test_is_over_at_its_end_whoever_is_left(self) -> None:
        scene = Scene(large=answers(seconds=60), small=answers(seconds=60))
        started = time.monotonic()

        with pytest.raises(ModelUnreachable, match=r"the-small of p-small did not answer within 0\.\d s"):
            await scene.ask(within=0.3)

        assert 0.25 < time.monotonic() - started < 20, "a busy machine is late, but no call takes a minute"

    async def test_is_all_the_only_ones(self) -> None:
        scene = Scene(large=answers(seconds=0.2))

        assert (await scene.ask(within=3)).duration_ms >= 190

    async def test_that_runs_out_amidst_an_answer_cuts_it(self) -> None:
        scene = Scene(large=answers(shows="Hal", seconds=60))

        with pytest.raises(AnswerCut):
            await scene.ask(within=0.05)

        assert "retract" in scene.seen


class TestRest:
    async def test_who_failed_thrice_is_left_alone_for_a_while_and_then_tried_again(self) -> None:
        scene = Scene(large=fails(), small=answers())
        for _ in range(5):
            answered = await scene.ask()

        assert scene.times() == [3, 5]
        assert answered.because == "large of p-large is resting"
        scene.now = 31.0
        assert (await scene.ask()).because == "large of p-large did not answer"
        assert (await scene.ask()).because == "large of p-large is resting"
        scene.now, scene.lines["large"].ends = 62.0, [says("back")]
        assert (await scene.ask()).name == "large"
        assert (await scene.ask()).name == "large"

    async def test_if_all_rest_all_are_asked(self) -> None:
        scene = Scene(large=fails(), small=fails())
        for _ in range(4):
            with pytest.raises(ModelOverloaded):
                await scene.ask()

        scene.lines["large"].ends = [says("back")]
        answered = await scene.ask(because="a rule says so")

        assert (answered.name, answered.because) == ("large", "a rule says so")
        assert scene.times() == [5, 4]

    async def test_who_is_left_when_the_others_rest_may_take_all_the_time_and_wait(self) -> None:
        scene = Scene(large=answers(), small=fails())
        for _ in range(3):
            with pytest.raises(ModelOverloaded):
                await scene.ask("small")

        await scene.ask()

        assert scene.lines["large"].asked[0].patience is None

    @pytest.mark.parametrize("kind", [ModelRejectedRequest, AnswerTooLarge])
    async def test_a_bad_request_is_no_reason_to_rest(self, kind: type[ModelError]) -> None:
        scene = Scene(large=fails(kind("no")), small=answers())
        for _ in range(5):
            await scene.ask()

        assert scene.times() == [5, 5]

    async def test_of_many_at_once_one_tries_who_has_rested(self) -> None:
        scene = Scene(large=fails(seconds=0.01), small=answers())
        for _ in range(3):
            await scene.ask()
        scene.now = 31.0

        await asyncio.gather(*(scene.ask() for _ in range(10)))

        assert scene.times() == [4, 13]


async def test_a_model_alone_is_a_policy_too() -> None:
    model = answers("Hi")
    models = ModelRegistry.alone(model)

    answered = await Caller(models).ask()

    assert (answered.answer.content, answered.name, answered.because) == ("Hi", "default", "")
    assert models.usual is model
