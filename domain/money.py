"""Money in whole units of 10^-12 dollars, so that sums are exact."""

from decimal import Decimal

PER_DOLLAR = 10**12
"""Units of money in a dollar."""


def units(dollars: float) -> int:
    """Convert dollars to units, rounding the decimal number as it is written."""
    return round(Decimal(repr(dollars)) * PER_DOLLAR)


def dollars(units: int) -> float:
    """Convert units to dollars."""
    return units / PER_DOLLAR
