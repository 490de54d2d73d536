"""What conversations took of the model: per turn, in all, and in money."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from domain.prices import Prices, dollars

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

    def cost(self, prices: Prices) -> float:
        """Dollars a conversation, prompts and answers."""
        spent = sum(_cost(prices, call) for call in self._all())
        return dollars(spent) / len(self.customers)

    def _all(self) -> Sequence[Call]:
        return [call for played in self.customers for turn in played for call in turn]


def read_prices(path: Path) -> Prices:
    return msgspec.json.decode(path.read_bytes(), type=Prices)


def table(ways: Sequence[Spending], prices: Prices) -> str:
    """Write all as a table of Markdown."""
    head = ["prompt tokens", *(f"turn {turn}" for turn in TURNS), f"{TURNS[-1]} turns", "money"]
    rows = [
        [way.name, *(_cell(way, turn) for turn in TURNS), f"{way.total():,.0f}", f"${way.cost(prices):.2f}"]
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
            "dollars": way.cost(prices),
            "prompts": [[[call["prompt_tokens"] for call in turn] for turn in played] for played in way.customers],
        }
        for way in ways
    }


def verdicts(everything: Spending, ours: Spending) -> Sequence[tuple[bool, str]]:
    """Judge: does ours stay flat, and how much less is it in the end?"""
    last = TURNS[-1]
    growth = ours.per_call(last - FULL + 1, last) / ours.per_call(FULL + 1, 2 * FULL)
    less = 1 - ours.per_call(last, last) / everything.per_call(last, last)
    return [
        (
            growth <= FLAT,
            f"a call of the last {FULL} turns takes {growth:.2f} times what one of turns {FULL + 1} to {2 * FULL} does",
        ),
        (less >= LESS, f"turn {last} takes {less:.1%} less than with everything appended"),
    ]


def _cell(way: Spending, turn: int) -> str:
    return f"{way.per_turn(turn):,.0f} ({way.per_call(turn, turn):,.0f})"


def _prompts(calls: Iterable[Call]) -> int:
    return sum(call["prompt_tokens"] for call in calls)


def _cost(prices: Prices, call: Call) -> int:
    tokens = call["prompt_tokens"], call["completion_tokens"]
    return prices.cost(call["model"] or "", *tokens) or prices.cost(PRICED_AS, *tokens)
