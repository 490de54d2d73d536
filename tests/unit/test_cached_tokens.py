"""Tokens that an endpoint had in its cache: believed within reason, added up, and priced."""

from datetime import date

import pytest

from domain.budget.prices import Price, Prices
from domain.models.chat import Usage
from domain.models.usage_check import check_usage
from domain.money import PER_DOLLAR
from domain.thread.describe import describe
from domain.thread.events import ModelCalled
from domain.thread.state import ModelUsage
from domain.thread.usage import add_usage

PRICES = Prices(date(2026, 11, 1), {"cheap": Price(2, 8, 0.5), "dear": Price(2, 8)})


def called(model: str = "cheap", cached: int = 0) -> ModelCalled:
    return ModelCalled(model, 1_000, 10, 5, "stop", cached=cached)


@pytest.mark.parametrize(
    ("model", "cached", "micros"), [("cheap", 600, 1_180), ("cheap", 0, 2_080), ("dear", 600, 2_080)]
)
def test_what_was_cached_costs_its_own_price_where_there_is_one(model: str, cached: int, micros: int) -> None:
    assert PRICES.of_call(called(model, cached)) == micros * PER_DOLLAR // 10**6


def test_sums_price_what_was_cached() -> None:
    usage = add_usage(add_usage((), called(cached=600)), called(cached=100))
    assert usage == (ModelUsage("cheap", 2, 2_000, 20, 700),)
    assert PRICES.of_all(usage) == PRICES.of_call(called(cached=600)) + PRICES.of_call(called(cached=100))


@pytest.mark.parametrize(("told", "cached"), [(50, 50), (100, 100), (101, 100), (10**9, 100), (-3, 0)])
def test_no_more_is_believed_to_be_cached_than_there_was(told: int, cached: int) -> None:
    found = check_usage(Usage(100, 10, told), 100, 10, None)
    assert (found.usage, found.estimated) == (Usage(100, 10, cached), False)


def test_where_a_report_is_not_believed_nothing_was_cached() -> None:
    assert check_usage(Usage(10**9, 10, 500), 100, 10, None).usage == Usage(100, 10, 0)


def test_it_is_told_in_words() -> None:
    assert "1,000 tokens in (600 of them cached) and 10 out" in describe(called(cached=600))
    assert "1,000 tokens in and 10 out" in describe(called())
