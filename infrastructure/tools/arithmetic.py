"""`calculate`: exact arithmetic with a small parser.

Python's parser is unsuitable: it converts decimals to floats, accepts far more than arithmetic, and can overflow the
stack. Numbers are fractions here, so that 0.1 + 0.2 is 0.3 and 1/3*3 is 1; only roots are rounded. Sizes are bounded.
"""

import math
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from domain.agents.tools import tool
from domain.errors import ToolError

TIMEOUT = 2.0
MAX_LENGTH = 500
MAX_DEPTH = 50
MAX_BITS = 3320
"""Bits of a numerator or a denominator: about 1,000 digits."""

KNOWN = "There are numbers, + - * / // % **, parentheses, sqrt, abs, round, min and max."

DIGITS = 28
"""Significant digits of a result with an infinite decimal expansion."""

_TOKEN = re.compile(r"\s*(?:([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]{1,3})?|\.[0-9]+)|([a-z]+)|(\*\*|//|[-+*/%^(),]))")
_SPELLINGS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})
"""Typographic operators: times, middle dot, division, minus, en dash."""

_POWER = 40
_SIGN = 30
_ROUNDED = Context(prec=60)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("Exponents must be whole numbers. For square roots there is sqrt(x).")
    longest = max(base.numerator.bit_length(), base.denominator.bit_length())
    # A lower bound of the bits of the power: 2 ** 3000 fits, 3 ** 3000 does not.
    if abs(base) != 1 and base and (longest - 1) * abs(exponent) > MAX_BITS:
        raise ToolError("A number on the way has more than 1,000 digits.")
    if abs(exponent) > MAX_BITS:
        return base ** int(exponent % 2) if base else base ** (1 if exponent > 0 else -1)
    return base ** int(exponent)


_BINDING = {"+": 10, "-": 10, "*": 20, "/": 20, "//": 20, "%": 20, "**": _POWER, "^": _POWER}
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: Fraction(a // b),
    "%": lambda a, b: a % b,
    "**": _power,
    "^": _power,
}


@tool(timeout=TIMEOUT, idempotent=True)
async def calculate(
    expression: Annotated[
        str, Field(description="Such as (2 + 3) * 4. Knows + - * / // % **, sqrt, abs, round(x, digits), min, max")
    ],
) -> str:
    """Calculate an arithmetic expression exactly."""
    return evaluate(expression)


def evaluate(expression: str) -> str:
    """Return the value as text. Raises `ToolError` if the expression is invalid or too large."""
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"The expression is longer than {MAX_LENGTH} characters.")
    try:
        return _written(_Parser(_tokens(expression.translate(_SPELLINGS))).value())
    except ZeroDivisionError as error:
        raise ToolError("Division by zero.") from error


class _Parser:
    """Precedence climbing over tokens. The last token is empty."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def value(self) -> Fraction:
        result = self._expression(0)
        if self._ahead:
            raise ToolError(f"Did not expect {self._ahead!r} there.")
        return result

    @property
    def _ahead(self) -> str:
        return self._tokens[self._next]

    def _take(self) -> str:
        symbol = self._ahead
        self._next += bool(symbol)
        return symbol

    def _expression(self, binding: int) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"The expression is nested deeper than {MAX_DEPTH} levels.")
        left = self._operand()
        while (strength := _BINDING.get(self._ahead, 0)) > binding:
            operator = self._take()
            # a ** b ** c is a ** (b ** c); other operators are left-associative.
            right = self._expression(strength - 1 if strength == _POWER else strength)
            left = _bounded(_OPERATIONS[operator](left, right))
        self._depth -= 1
        return left

    def _operand(self) -> Fraction:
        symbol = self._take()
        if symbol == "(":
            result = self._expression(0)
            self._expect(")")
            return result
        if symbol in {"-", "+"}:
            result = self._expression(_SIGN)
            return -result if symbol == "-" else result
        if symbol in _FUNCTIONS:
            return _bounded(self._call(symbol))
        if symbol[:1].isdigit() or symbol[:1] == ".":
            return _bounded(Fraction(symbol))
        raise ToolError(f"Did not expect {symbol!r} there. {KNOWN}" if symbol else "The expression ends too early.")

    def _call(self, name: str) -> Fraction:
        self._expect("(")
        arguments = [self._expression(0)]
        while self._ahead == ",":
            self._take()
            arguments.append(self._expression(0))
        self._expect(")")
        function, most = _FUNCTIONS[name]
        if len(arguments) > most:
            raise ToolError(f"{name} takes no more than {most} arguments.")
        return function(*arguments)

    def _expect(self, symbol: str) -> None:
        if self._take() != symbol:
            raise ToolError(f"{symbol!r} is missing.")


def _tokens(expression: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    rest = expression.rstrip()
    while position < len(rest):
        found = _TOKEN.match(rest, position)
        if found is None:
            raise ToolError(f"Not arithmetic: {rest[position : position + 20].strip()!r}. {KNOWN}")
        tokens.append(found[found.lastindex or 0])
        position = found.end()
    return [*tokens, ""]


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolError("A number on the way has more than 1,000 digits.")
    return value


def _sqrt(value: Fraction) -> Fraction:
    if value < 0:
        raise ToolError("There is no real square root of a negative number.")
    above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if above * above == value.numerator and below * below == value.denominator:
        return Fraction(above, below)
    quotient = _ROUNDED.divide(Decimal(value.numerator), Decimal(value.denominator))
    return Fraction(_ROUNDED.sqrt(quotient))


def _round(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if digits.denominator != 1 or abs(digits) > MAX_LENGTH:
        raise ToolError(f"round takes a whole number of digits between -{MAX_LENGTH} and {MAX_LENGTH}.")
    return round(value, int(digits))


_FUNCTIONS: dict[str, tuple[Callable[..., Fraction], int]] = {
    "sqrt": (_sqrt, 1),
    "abs": (abs, 1),
    "round": (_round, 2),
    "min": (lambda *values: min(values), MAX_LENGTH),
    "max": (lambda *values: max(values), MAX_LENGTH),
}


def _written(value: Fraction) -> str:
    """Write a whole number or a decimal: in full if it has at most `2 * DIGITS` digits, else rounded to `DIGITS`."""
    if value.denominator == 1:
        return str(value.numerator)
    precise, brief = Context(prec=2 * DIGITS), Context(prec=DIGITS)
    decimal = precise.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(precise)
    if Fraction(decimal) != value:
        decimal = decimal.normalize(brief)
    return f"{decimal:f}" if abs(decimal.adjusted()) < DIGITS else f"{decimal:e}"
