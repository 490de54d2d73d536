"""A thread's budget: its limits, what counts, and when a limit is exceeded."""

from datetime import UTC, date, datetime, timedelta

import pytest

from domain.budget.limits import exceeded_limit, is_warned, used_in
from domain.budget.prices import Price, Prices
from domain.errors import InvalidInput, UnopenedThread
from domain.ids import Version
from domain.money import PER_DOLLAR, dollars, units
from domain.ports.ledger import Amount, LimitUsage
from domain.thread.commands import CancelTurn, OpenThread, SetBudget
from domain.thread.events import (
    BudgetSet,
    CancellationRequested,
    Event,
    Limit,
    MessageAppended,
    ModelCalled,
    ToolRequested,
    TurnCompleted,
    TurnRolledBack,
)
from domain.thread.evolve import evolve, fold
from domain.thread.limits import MAX_COST, MAX_TOKENS
from domain.thread.state import INITIAL, Budget, ModelUsage, Running, Thread, Unopened
from domain.windows import LAST, Window, end_of, start_of
from tests.support.given import A_RUNNING_TURN, OPENED, TURN, given

DAILY = Limit("day", 100)
EVER = Limit("lifetime", cost=PER_DOLLAR)
PRICES = Prices(date(2026, 11, 1), {"m": Price(1_000.0, 2_000.0)})
AT = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def called(model: str = "m", prompt: int = 40, completion: int = 10) -> ModelCalled:
    return ModelCalled(model, prompt, completion, 5, "stop")


def thread(*events: tuple[Event, datetime]) -> Thread:
    state = fold(INITIAL, A_RUNNING_TURN, AT)
    for event, at in events:
        state = evolve(state, event, at)
    assert not isinstance(state, Unopened)
    return state.thread


class TestSetting:
    def test_limits_hold_from_the_event_on_in_the_order_of_their_windows(self) -> None:
        given(OPENED).when(SetBudget((EVER, DAILY))).then(BudgetSet((DAILY, EVER)))

    def test_setting_what_is_set_decides_nothing(self) -> None:
        given(OPENED, BudgetSet((DAILY, EVER))).when(SetBudget((EVER, DAILY))).then_nothing()
        given(OPENED).when(SetBudget(())).then_nothing()

    def test_without_limits_the_budget_is_lifted(self) -> None:
        given(OPENED, BudgetSet((DAILY,))).when(SetBudget(())).then(BudgetSet())
        given(OPENED, BudgetSet((DAILY,)), BudgetSet()).when(SetBudget(())).then_nothing()

    def test_new_limits_take_the_place_of_all_before(self) -> None:
        state = given(OPENED, BudgetSet((DAILY,)), BudgetSet((EVER,))).state
        assert not isinstance(state, Unopened)
        assert state.thread.budget == Budget(Version(3), (EVER,))

    def test_a_thread_that_is_not_open_has_no_budget(self) -> None:
        given().when(SetBudget((DAILY,))).then_refused(UnopenedThread)

    @pytest.mark.parametrize(
        ("limits", "field"),
        [
            ((Limit("day"),), "limits.0"),
            ((DAILY, Limit("hour", 0)), "limits.1.tokens"),
            ((Limit("hour", -1),), "limits.0.tokens"),
            ((Limit("hour", MAX_TOKENS + 1),), "limits.0.tokens"),
            ((Limit("hour", cost=0),), "limits.0.cost_usd"),
            ((Limit("hour", 1, MAX_COST + 1),), "limits.0.cost_usd"),
            ((DAILY, EVER, Limit("day", 7)), "limits.2.window"),
        ],
    )
    def test_a_limit_is_something_and_there_is_one_for_a_window(self, limits: tuple[Limit, ...], field: str) -> None:
        for history in ((), (OPENED,)):
            given(*history).when(SetBudget(limits)).then_refused(InvalidInput, f"^{field}: ")

    def test_the_largest_and_the_smallest_limits_can_be_set(self) -> None:
        limits = (Limit("hour", 1, 1), Limit("day", MAX_TOKENS, MAX_COST))
        given(OPENED).when(SetBudget(limits)).then(BudgetSet(limits))


class TestWhileATurnRuns:
    def test_the_turn_is_not_disturbed(self) -> None:
        before = given(*A_RUNNING_TURN, MessageAppended("assistant", None, 1), ToolRequested("a", "clock", {})).state
        after = evolve(before, BudgetSet((DAILY,)), AT)
        assert isinstance(before, Running)
        assert isinstance(after, Running)
        assert (after.turn, after.thread.window) == (before.turn, before.thread.window)
        assert after.thread.limits == (DAILY,)

    def test_a_turn_that_is_to_end_can_still_be_given_a_budget(self) -> None:
        cancelling = (*A_RUNNING_TURN, CancellationRequested(TURN, "cancelled"))
        given(*cancelling).when(SetBudget((DAILY,))).then(BudgetSet((DAILY,)))
        given(*cancelling, BudgetSet((DAILY,))).when(CancelTurn(TURN)).then_nothing()

    def test_rolling_the_turn_back_undoes_neither_the_budget_nor_what_was_spent(self) -> None:
        state = thread((called(), AT), (BudgetSet((DAILY,)), AT), (TurnRolledBack(TURN), AT))
        assert state.limits == (DAILY,)
        assert used_in(state, "hour", AT) == state.usage == (ModelUsage("m", 1, 40, 10),)

    def test_opening_the_thread_again_decides_nothing(self) -> None:
        given(OPENED, BudgetSet((DAILY,))).when(OpenThread("assistant")).then_nothing()


class TestWhatWasSpent:
    def test_it_is_counted_by_model_in_the_windows_of_its_time(self) -> None:
        found = thread((called(), AT), (called("n"), AT), (called(), AT + HOUR))
        assert set(used_in(found, "hour", AT + HOUR)) == {ModelUsage("m", 1, 40, 10)}
        assert set(used_in(found, "day", AT + HOUR)) == {ModelUsage("m", 2, 80, 20), ModelUsage("n", 1, 40, 10)}

    @pytest.mark.parametrize(
        ("later", "windows"),
        [
            (timedelta(minutes=29), {"hour", "day", "month", "lifetime"}),
            (timedelta(minutes=30), {"day", "month", "lifetime"}),
            (timedelta(minutes=90), {"month", "lifetime"}),
            (timedelta(days=8), {"lifetime"}),
        ],
    )
    def test_a_window_that_has_ended_counts_no_more(self, later: timedelta, windows: set[Window]) -> None:
        found = thread((called(), AT))
        kinds: tuple[Window, ...] = ("hour", "day", "month", "lifetime")
        assert {window for window in kinds if used_in(found, window, AT + later)} == windows

    def test_only_the_current_windows_are_kept(self) -> None:
        found = thread(*((called(), AT + n * HOUR) for n in range(100)))
        assert [(used.window, used.start) for used in found.windows] == [
            ("hour", datetime(2026, 11, 28, 1, tzinfo=UTC)),
            ("day", datetime(2026, 11, 28, tzinfo=UTC)),
            ("month", datetime(2026, 11, 1, tzinfo=UTC)),
        ]

    def test_what_is_only_being_decided_is_in_no_window(self) -> None:
        found = thread((called(), AT))
        state = evolve(Running(Version(4), found, given(*A_RUNNING_TURN).state.turn), called())  # type: ignore[union-attr]
        assert isinstance(state, Running)
        assert state.thread.windows == found.windows
        assert state.thread.usage == (ModelUsage("m", 2, 80, 20),)


class TestReaching:
    def test_a_limit_is_reached_by_the_last_token_and_until_its_window_ends(self) -> None:
        spent = [(called(), AT), (called(), AT)]
        assert exceeded_limit(thread((BudgetSet((Limit("hour", 101),)), AT), *spent), AT, PRICES) is None
        over = thread((BudgetSet((Limit("hour", 100),)), AT), *spent)
        start = AT.replace(minute=0, second=0, microsecond=0)
        spent_twice = Amount(100, 120_000 * 10**6)
        assert exceeded_limit(over, AT, PRICES) == LimitUsage(None, Limit("hour", 100), start, spent_twice)
        end = end_of("hour", AT)
        assert end == AT + timedelta(minutes=30)
        assert exceeded_limit(over, end - timedelta(microseconds=1), PRICES) is not None
        assert exceeded_limit(over, end, PRICES) is None

    def test_a_warning_threshold_is_exact(self) -> None:
        limit = Limit("hour", 100, warn_at=0.07)
        assert 0.07 * 100 > 7, "in floating-point numbers, 7 tokens would not reach it"
        assert [is_warned(limit, Amount(tokens)) for tokens in (6, 7)] == [False, True]

    def test_money_is_counted_by_the_price_list(self) -> None:
        cost = 40 * 1_000 + 10 * 2_000  # in millionths of a dollar
        spent = (called(), AT), (called("free", 10**9, 0), AT), (TurnCompleted(TURN), AT)
        for more, is_exceeded in ((0, True), (1, False)):
            limit = Limit("month", cost=cost * 1_000_000 + more)
            found = exceeded_limit(thread(*spent, (BudgetSet((limit,)), AT)), AT, PRICES)
            assert (found is not None) == is_exceeded

    def test_of_several_the_one_whose_window_ends_last_counts(self) -> None:
        limits = Limit("hour", 10), Limit("day", 20), Limit("month", 10**6)
        found = exceeded_limit(thread((BudgetSet(limits), AT), (called(), AT)), AT, PRICES)
        assert found
        assert (found.limit, found.window) == (Limit("day", 20), "day")


def test_windows_end_where_the_next_ones_begin() -> None:
    last = datetime(2027, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    kinds: tuple[Window, ...] = ("hour", "day", "month")
    assert {end_of(window, last) for window in kinds} == {datetime(2028, 1, 1, tzinfo=UTC)}
    assert end_of("month", datetime(2028, 2, 3, tzinfo=UTC)) == datetime(2028, 3, 1, tzinfo=UTC)
    assert end_of("lifetime", last) is None
    assert {end_of(window, LAST) for window in kinds} == {LAST}
    assert start_of("day", LAST).day == 31


@pytest.mark.parametrize(
    ("money", "whole"),
    [(1.5, 1_500_000_000_000), (0.1, 10**11), (1e-12, 1), (1e-13, 0), (999_999.99, 999_999_990_000_000_000)],
)
def test_dollars_are_whole_units_just_as_they_are_written(money: float, whole: int) -> None:
    assert units(money) == whole
    assert dollars(units(money)) == (money if whole else 0)
