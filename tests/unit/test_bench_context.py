"""The rules that Threadfold is compared with, and the sums of the comparison."""

from typing import Any

import pytest

from benchmarks.least_squares import least_squares
from benchmarks.prompts import counted, everything, window
from benchmarks.spending import Spending, read_prices, verdicts
from examples.airline.recordings import Message
from infrastructure.settings import CHECKOUT

TALK: list[Message] = [
    {"role": "user", "content": "Where is my bag? " * 20},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "name": "f", "content": "In Oslo. " * 20},
    {"role": "assistant", "content": "It is in Oslo."},
    {"role": "user", "content": "And yours?"},
]


def test_everything_is_shown_behind_the_system_prompt() -> None:
    shown = everything("Be brief.", [])(TALK)
    assert shown["messages"] == [{"role": "system", "content": "Be brief."}, *TALK]


def test_a_window_begins_with_the_customer_and_fits() -> None:
    whole = counted(everything("Be brief.", [])(TALK))
    assert window("Be brief.", [], whole)(TALK)["messages"][1:] == TALK
    for limit in range(whole - 1, 20, -1):
        shown = window("Be brief.", [], limit)(TALK)
        assert counted(shown) <= limit
        assert shown["messages"][1:] == TALK[4:]


def test_of_a_turn_that_is_too_long_nothing_is_left() -> None:
    assert len(window("Be brief.", [], 20)(TALK[:3])["messages"]) == 1


def call(prompt: int, purpose: str = "answer") -> dict[str, Any]:
    used = {"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10}
    return {"purpose": purpose, "model": "default", **used}


def test_turns_without_an_answer_do_not_count_in_the_mean() -> None:
    way = Spending("way", [[[call(100), call(200)], []], [[], [call(50, "memory")]]])
    assert (way.per_turn(1), way.per_call(1, 1)) == (300, 150)
    assert (way.per_turn(2), way.total(), way.largest(), way.memory()) == (50, 175, 200, 30)
    prices = read_prices(CHECKOUT / "infrastructure" / "prices.json")
    assert way.cost(prices) == pytest.approx((350 * 2.5 + 30 * 10) / 2e6)


@pytest.mark.parametrize(("last", "flat", "less"), [(110, True, True), (120, False, True), (200, False, False)])
def test_ours_must_stay_flat_and_take_less(last: int, *, flat: bool, less: bool) -> None:
    everything = Spending("everything", [[[call(5 * n)] for n in range(1, 201)]])
    ours = Spending("ours", [[[call(100)]] * 150 + [[call(last)]] * 50])
    assert [good for good, _ in verdicts(everything, ours)] == [flat, less]


def test_weights_are_found_again() -> None:
    rows = [(1.0, 2.0, 5.0), (4.0, 0.0, 1.0), (3.0, 3.0, 0.0), (7.0, 1.0, 2.0)]
    measured = [2 * a - b + 4 * c for a, b, c in rows]
    assert least_squares(rows, measured) == pytest.approx([2, -1, 4])
