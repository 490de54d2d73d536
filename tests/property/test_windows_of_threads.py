"""Whatever a process's clock says, a thread's calls are counted in the window of their time, or in a later one."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.budget.limits import amount_of, exceeded_limit, instant_of, used_in
from domain.budget.prices import Prices
from domain.thread.events import BudgetSet, Limit, ModelCalled
from domain.thread.evolve import evolve, fold
from domain.thread.state import INITIAL, Thread, Unopened
from domain.windows import WINDOWS, start_of
from tests.support.given import A_RUNNING_TURN

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TIMES = st.integers(-50 * 24 * 60, 50 * 24 * 60).map(lambda minutes: NOON + timedelta(minutes=minutes))
PRICES = Prices(NOON.date(), {})
CALL = ModelCalled("gpt", 60, 40, 1, "stop")


def with_calls(times: list[datetime], *limits: Limit) -> Thread:
    """Fold a thread whose calls were written by clocks like these: times never run backwards in it."""
    at = min(times)
    state = evolve(fold(INITIAL, A_RUNNING_TURN, at), BudgetSet(limits), at)
    for time in times:
        at = max(at, time)
        state = evolve(state, CALL, at)
    assert not isinstance(state, Unopened)
    return state.thread


@given(st.lists(TIMES, min_size=1, max_size=12), TIMES)
def test_no_clock_makes_a_window_with_calls_empty_before_it_is_over(times: list[datetime], now: datetime) -> None:
    thread, last = with_calls(times), max(times)
    for window in WINDOWS[:-1]:
        if start_of(window, now) <= start_of(window, last):
            assert used_in(thread, window, now) == used_in(thread, window, last)
            assert amount_of(used_in(thread, window, now), PRICES).tokens >= 100
        else:
            assert used_in(thread, window, now) == ()
    assert instant_of(thread, now) >= now


def test_a_clock_that_was_ahead_gives_no_thread_its_budget_again_and_again() -> None:
    ahead = [NOON + timedelta(days=10)]
    thread = with_calls([*ahead, *[NOON + timedelta(minutes=n) for n in range(40)]], Limit("day", 3_000))
    found = exceeded_limit(thread, NOON + timedelta(hours=1), PRICES)
    assert found is not None
    assert found.window == "day"
