"""Token buckets."""

from hypothesis import given
from hypothesis import strategies as st

from domain.identity.rates import Rate, RateLimiter

A_RATE = Rate(2.0, 4)


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    limiter = RateLimiter()
    states = [limiter.take([("a", A_RATE)], 0.0) for _ in range(5)]
    assert [state.allowed for state in states if state] == [True] * 4 + [False]
    assert [state.remaining for state in states if state] == [3, 2, 1, 0, 0]
    refused = states[-1]
    assert refused is not None
    assert (refused.limit, refused.reset, refused.retry_after) == (4, 2, 1)
    assert [
        bool(state and state.allowed) for state in (limiter.take([("a", A_RATE)], at) for at in (0.5, 0.6, 1.0))
    ] == [
        True,
        False,
        True,
    ]


def test_an_empty_bucket_takes_nothing_of_the_others() -> None:
    limiter = RateLimiter()
    small = ("key", Rate(1.0, 1))
    large = ("tenant", Rate(1.0, 10))
    for _ in range(5):
        state = limiter.take([small, large], 0.0)
    assert state is not None
    assert (state.limit, state.allowed) == (1, False)
    alone = limiter.take([large], 0.0)
    assert alone is not None
    assert alone.remaining == 8


def test_without_limits_there_is_no_state() -> None:
    assert RateLimiter().take([], 0.0) is None


@given(
    per_second=st.floats(0.5, 50),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
    backwards=st.booleans(),
)
def test_never_more_than_burst_and_rate(per_second: float, burst: int, pauses: list[float], *, backwards: bool) -> None:
    limiter, now, allowed = RateLimiter(), 100.0, 0
    for pause in pauses:
        now += pause
        state = limiter.take([("a", Rate(per_second, burst))], now - 1 if backwards and allowed % 3 == 1 else now)
        assert state is not None
        allowed += state.allowed
    assert allowed <= burst + per_second * sum(pauses) + 0.001


@given(st.floats(0.1, 50), st.integers(1, 20))
def test_after_what_it_says_a_request_is_allowed(per_second: float, burst: int) -> None:
    limiter, now = RateLimiter(), 0.0
    bucket = [("a", Rate(per_second, burst))]
    for _ in range(3 * burst):
        state = limiter.take(bucket, now)
        assert state is not None
        if not state.allowed:
            now += state.retry_after
            again = limiter.take(bucket, now)
            assert again is not None
            assert again.allowed
