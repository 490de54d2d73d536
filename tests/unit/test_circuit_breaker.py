"""A circuit breaker opens after repeated failures, and then admits one probe at a time."""

import hypothesis.strategies as st
from hypothesis import given

from domain.models.circuit_breaker import CircuitBreaker


def failing(times: int, at: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(after=3, rest=30)
    for _ in range(times):
        breaker.failed(at)
    return breaker


def test_some_failures_are_nothing() -> None:
    assert failing(2).admits(0.0)


def test_so_many_in_a_row_are_a_reason_to_rest() -> None:
    breaker = failing(3)

    assert [breaker.admits(now) for now in (0.0, 10.0, 29.9)] == [False, False, False]


def test_an_answer_between_them_begins_the_count_anew() -> None:
    breaker = failing(2)
    breaker.succeeded()
    breaker.failed(0.0)
    breaker.failed(0.0)

    assert breaker.admits(0.0)


def test_after_the_rest_one_call_is_let_through_to_see() -> None:
    breaker = failing(3)

    assert not breaker.rests(30.0)
    assert [breaker.admits(now) for now in (30.0, 30.0, 31.0)] == [True, False, False]


def test_if_that_one_is_answered_all_are_let_through() -> None:
    breaker = failing(3)
    breaker.admits(30.0)
    breaker.succeeded()

    assert [breaker.admits(31.0) for _ in range(3)] == [True, True, True]


def test_if_that_one_fails_there_is_another_rest() -> None:
    breaker = failing(3)
    breaker.admits(30.0)
    breaker.failed(35.0)

    assert [breaker.admits(now) for now in (36.0, 64.9, 65.0)] == [False, False, True]


def test_if_that_one_is_never_heard_of_another_follows() -> None:
    breaker = failing(3)
    breaker.admits(30.0)

    assert [breaker.admits(now) for now in (59.9, 60.0, 60.0)] == [False, True, False]


@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.floats(0, 50)), max_size=60))
def test_the_breaker_is_never_open_for_longer_than_a_rest(steps: list[tuple[str, float]]) -> None:
    breaker, now = CircuitBreaker(after=2, rest=20), 0.0
    for step, passed in steps:
        now += passed
        if step == "fail":
            breaker.failed(now)
        elif step == "succeed":
            breaker.succeeded()
            assert not breaker.rests(now)
        else:
            rested = breaker.rests(now)
            assert breaker.admits(now) != rested
        assert not breaker.rests(now + 20)
