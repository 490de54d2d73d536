"""The rules that Threadfold is compared with, and the sums of the comparison."""

from typing import Any

import pytest

from benchmarks.least_squares import least_squares
from benchmarks.prompts import counted, everything, window
from benchmarks.spending import Spending, read_prices, verdicts
from examples.airline.recordings import Message
from infrastructure.settings import CHECKOUT
from tests.fakes.prefix_cache import PrefixCache

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


PRICES = read_prices(CHECKOUT / "infrastructure" / "prices.json")


def call(prompt: int, purpose: str = "answer", cached: int = 0) -> dict[str, Any]:
    used = {"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10}
    return {"purpose": purpose, "model": "default", **used, "prompt_tokens_details": {"cached_tokens": cached}}


def test_turns_without_an_answer_do_not_count_in_the_mean() -> None:
    way = Spending("way", [[[call(100), call(200)], []], [[], [call(50, "memory")]]])
    assert (way.per_turn(1), way.per_call(1, 1)) == (300, 150)
    assert (way.per_turn(2), way.total(), way.largest(), way.memory()) == (50, 175, 200, 30)
    assert way.cost(PRICES) == pytest.approx((350 * 2.5 + 30 * 10) / 2e6)


@pytest.mark.parametrize(("last", "flat", "less"), [(110, True, True), (120, False, True), (200, False, False)])
def test_ours_must_stay_flat_and_take_less(last: int, *, flat: bool, less: bool) -> None:
    everything = Spending("everything", [[[call(5 * n)] for n in range(1, 201)]])
    ours = Spending("ours", [[[call(100)]] * 150 + [[call(last)]] * 50])
    assert [good for good, _ in verdicts(everything, ours, ours, PRICES)][:2] == [flat, less]


@pytest.mark.parametrize(
    ("cached", "least"), [(0, (False, False)), (1_300, (False, True)), (1_700, (False, True)), (1_990, (True, True))]
)
def test_ours_must_cost_less_where_what_is_cached_is_discounted(cached: int, least: tuple[bool, bool]) -> None:
    everything = Spending("everything", [[[call(8_000, cached=7_700)]] * 200])
    window = Spending("window", [[[call(2_000, cached=900)]] * 200])
    ours = Spending("ours", [[[call(2_000, cached=cached)]] * 200])
    assert ours.cached() == cached / 2_000
    assert ours.cost(PRICES, 0.9) == pytest.approx(200 * ((2_000 - 0.9 * cached) * 2.5 + 10 * 10) / 1e6)
    assert tuple([good for good, _ in verdicts(everything, window, ours, PRICES)][2:4]) == least
    assert [good for good, _ in verdicts(everything, window, ours, PRICES)][4]
    dear = Spending("ours", [[[call(10_600, cached=10_000)]] * 200])
    assert not [good for good, _ in verdicts(everything, window, dear, PRICES)][4]


def test_a_cache_knows_the_longest_beginning_in_blocks() -> None:
    cache, words = PrefixCache(), [f"{number} " for number in range(2_000)]

    def prompt(count: int, last: str = "", model: str = "m") -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": "".join(words[:count]) + last}]}

    assert cache.read(prompt(300)) == 0, "it is too short"
    assert cache.read(prompt(300)) == 0
    whole = counted(prompt(800))
    assert cache.read(prompt(800)) == 0, "nothing like it was seen before"
    assert cache.read(prompt(800)) == 1_024 + (whole - 1_024) // 128 * 128
    assert cache.read(prompt(800, "and more")) == 1_024 + (whole - 1_024) // 128 * 128
    assert cache.read({**prompt(800), "tools": [{"type": "function"}]}) == 0, "tools come first"
    assert cache.read(prompt(800, model="other")) == 0
    cache.clear()
    assert cache.read(prompt(800)) == 0


def test_weights_are_found_again() -> None:
    rows = [(1.0, 2.0, 5.0), (4.0, 0.0, 1.0), (3.0, 3.0, 0.0), (7.0, 1.0, 2.0)]
    measured = [2 * a - b + 4 * c for a, b, c in rows]
    assert least_squares(rows, measured) == pytest.approx([2, -1, 4])
