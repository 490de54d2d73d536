"""An answer that cannot be used was paid for all the same: its error says what it cost."""

from typing import Any

import pytest

from domain.models.chat import AnswerCut, Usage
from infrastructure.models.openai.endpoints import TimeLimits
from tests.fakes.openai_server import (
    USAGE,
    Cut,
    Pause,
    Reply,
    chunk,
    completion,
    events,
    refusal,
)
from tests.support.openai import call, calls, error_of


@pytest.mark.parametrize(
    "reply",
    [
        events(chunk("Half"), USAGE),
        events(chunk("Half"), USAGE, Cut()),
        events(chunk("Half"), {"error": "slot lost", "usage": USAGE["usage"]}),
        completion(choices=[{"message": 7}]),
        completion(choices=[]),
    ],
)
async def test_an_error_has_the_usage_that_the_endpoint_reports(reply: Reply) -> None:
    error = await error_of(reply)
    assert error.usage == Usage(7, 3)
    assert error.accepted


@pytest.mark.parametrize("end", [Cut(), Pause(5), "{broken"])
async def test_an_error_has_what_the_model_wrote_until_then(end: Any) -> None:
    begun = (chunk("Half "), chunk("an answer"), calls(call("weigh", '{"what": ', index=0)))
    error = await error_of(events(*begun, end), limits=TimeLimits(silence=0.3))
    assert error.accepted
    assert error.usage is None
    assert error.written.startswith('Half an answerweigh{"what": ')


async def test_an_answer_that_is_cut_by_the_total_time_has_what_was_written() -> None:
    error = await error_of(events(chunk("Half"), Pause(5)), limits=TimeLimits(total=0.5))
    assert (type(error), error.accepted, error.written) == (AnswerCut, True, "Half")


@pytest.mark.parametrize("reply", [refusal(400), Reply([b"<html>Sign in</html>"])])
async def test_what_no_model_has_read_costs_nothing(reply: Reply) -> None:
    error = await error_of(reply)
    assert (error.accepted, error.usage) == (False, None)
