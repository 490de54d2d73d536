"""Money in whole units, millionths of a millionth of a dollar, so that sums are exact."""

from decimal import Decimal

PER_DOLLAR = 10**12
"""Units of money in a dollar."""


def units(dollars: float) -> int:
    """Turn dollars into units, the nearest to what is written."""
    return round(Decimal(repr(dollars)) * PER_DOLLAR)


def dollars(units: int) -> float:
    """Turn units into dollars."""
    return units / PER_DOLLAR
