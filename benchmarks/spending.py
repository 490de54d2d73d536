"""What conversations took of the model: per turn, in all, and in money."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from domain.budget.prices import Prices
from domain.money import dollars

PRICED_AS = "gpt-4o"
"""What calls of models without a price cost."""

TURNS = (10, 50, 100, 200)
"""Turns to show."""

FULL = 50
"""The turn from which on every window of the benchmark is full."""

FLAT = 1.15
"""How much larger than around the turn above prompts may be at the end."""

LESS = 0.85
"""How much less than appending everything the last turn must take."""

DISCOUNTS = (0, 0.5, 0.9)
"""What endpoints take off the price of tokens that they have in their cache."""

OF_EVERYTHING, OF_WINDOW = 0.4, 0.75
"""What shares of the others' money ours may cost at the largest discount."""

BEFORE = 5.20
"""Dollars that ours took, without a discount, before prompts were made for caches: it must not take more."""

Call: TypeAlias = dict[str, Any]
"""A call as the recorded model lists it."""

Played: TypeAlias = Sequence[Sequence[Call]]
"""The calls of each turn of a conversation."""


@dataclass(frozen=True)
class Spending:
    """What one way of showing a conversation took, with several customers."""

    name: str
    customers: Sequence[Played]

    def calls(self, first: int, last: int) -> Sequence[Call]:
        """All customers' calls in some turns, counted from 1, the last one included."""
        return [call for played in self.customers for turn in played[first - 1 : last] for call in turn]

    def per_turn(self, turn: int) -> float:
        """Prompt tokens of a turn, on average over the customers whom the model answered in it."""
        answered = sum(bool(played[turn - 1]) for played in self.customers)
        return _prompts(self.calls(turn, turn)) / answered

    def per_call(self, first: int, last: int) -> float:
        """Prompt tokens of a call in some turns, on average."""
        calls = self.calls(first, last)
        return _prompts(calls) / len(calls)

    def total(self) -> float:
        """Prompt tokens of a conversation, on average."""
        return _prompts(self._all()) / len(self.customers)

    def largest(self) -> int:
        """Prompt tokens of the largest call."""
        return max(_prompts([call]) for call in self._all())

    def memory(self) -> float:
        """Tokens a conversation, prompts and answers, that went into keeping its memory."""
        kept: int = sum(call["total_tokens"] for call in self._all() if call["purpose"] == "memory")
        return kept / len(self.customers)

    def cost(self, prices: Prices, discount: float = 0) -> float:
        """Dollars a conversation, prompts and answers, with a discount on what was cached."""
        spent = sum(_cost(prices, call, discount) for call in self._all())
        return dollars(round(spent)) / len(self.customers)

    def cached(self) -> float:
        """The share of the prompts' tokens that was cached, of the model that answers."""
        answers = [call for call in self._all() if call["purpose"] == "answer"]
        return sum(map(_cached, answers)) / _prompts(answers)

    def _all(self) -> Sequence[Call]:
        return [call for played in self.customers for turn in played for call in turn]


def read_prices(path: Path) -> Prices:
    return msgspec.json.decode(path.read_bytes(), type=Prices)


def table(ways: Sequence[Spending], prices: Prices) -> str:
    """Write all as a table of Markdown."""
    costs = ["no discount" if not discount else f"{discount:.0%} discount" for discount in DISCOUNTS]
    head = ["prompt tokens", *(f"turn {turn}" for turn in TURNS), f"{TURNS[-1]} turns", "cached", *costs]
    rows = [
        [
            way.name,
            *(_cell(way, turn) for turn in TURNS),
            f"{way.total():,.0f}",
            f"{way.cached():.1%}",
            *(f"${way.cost(prices, discount):.2f}" for discount in DISCOUNTS),
        ]
        for way in ways
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_json(ways: Sequence[Spending], prices: Prices) -> dict[str, Any]:
    """Tell all numbers, with each turn's calls."""
    return {
        way.name: {
            "per_turn": {turn: way.per_turn(turn) for turn in TURNS},
            "per_call": {turn: way.per_call(turn, turn) for turn in TURNS},
            "total": way.total(),
            "largest": way.largest(),
            "memory": way.memory(),
            "dollars": {str(discount): way.cost(prices, discount) for discount in DISCOUNTS},
            "cached_share": way.cached(),
            "cached": [[[_cached(call) for call in turn] for turn in played] for played in way.customers],
            "prompts": [[[call["prompt_tokens"] for call in turn] for turn in played] for played in way.customers],
        }
        for way in ways
    }


def verdicts(everything: Spending, window: Spending, ours: Spending, prices: Prices) -> Sequence[tuple[bool, str]]:
    """Judge: does ours stay flat, how much less is it in the end, and what does it cost?"""
    most = DISCOUNTS[-1]
    costs = [way.cost(prices, most) for way in (everything, window, ours)]
    of_everything, of_window, whole = costs[2] / costs[0], costs[2] / costs[1], ours.cost(prices)
    last = TURNS[-1]
    growth = ours.per_call(last - FULL + 1, last) / ours.per_call(FULL + 1, 2 * FULL)
    less = 1 - ours.per_call(last, last) / everything.per_call(last, last)
    return [
        (
            growth <= FLAT,
            f"a call of the last {FULL} turns takes {growth:.2f} times what one of turns {FULL + 1} to {2 * FULL} does",
        ),
        (less >= LESS, f"turn {last} takes {less:.1%} less than with everything appended"),
        (of_everything <= OF_EVERYTHING, f"at {most:.0%} discount it costs {of_everything:.3f} of everything appended"),
        (of_window <= OF_WINDOW, f"at {most:.0%} discount it costs {of_window:.3f} of the last that fit"),
        (whole <= BEFORE, f"without a discount it costs ${whole:.2f}, and took ${BEFORE:.2f} before"),
    ]


def _cell(way: Spending, turn: int) -> str:
    return f"{way.per_turn(turn):,.0f} ({way.per_call(turn, turn):,.0f})"


def _prompts(calls: Iterable[Call]) -> int:
    return sum(call["prompt_tokens"] for call in calls)


def _cached(call: Call) -> int:
    return int(call["prompt_tokens_details"]["cached_tokens"])


def _cost(prices: Prices, call: Call, discount: float) -> float:
    """Price a call, and take a discount off what was cached: endpoints differ in it, whatever the price list says."""
    tokens = call["prompt_tokens"], call["completion_tokens"]
    model = call["model"] if prices.knows(call["model"] or "") else PRICED_AS
    return prices.cost(model, *tokens) - discount * prices.cost(model, _cached(call), 0)
