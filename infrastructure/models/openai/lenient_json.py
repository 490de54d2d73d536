"""A lenient JSON reader for what models write: it accepts what has one possible meaning.

Beyond JSON it accepts:
- a line break, tab or other control character within a string;
- a comma before a closing bracket;
- comments;
- strings in single quotes, and Python's `True`, `False` and `None`;
- a key that is repeated with an equal value.

It refuses what it would have to guess: a text that ends too soon, NaN and infinities, words without quotes, escapes
that languages read differently, and a key that is repeated with another value. The error says where and why.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Levels of nesting that are read: more than the log accepts."""

_SPACE = re.compile(r"(?:[\s\ufeff]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRINGS = {
    '"': re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*(?:\\.[^'\\]*)*)'", re.DOTALL),
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?(?![\w.+-])")
_WORD = re.compile(r"[+-]?[\w.$+-]+")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)

_QUOTED_CHARS = 30
"""What an error quotes on either side of its position."""


class NotJsonError(ValueError):
    """A text that is not JSON. Its message says what is wrong, where, and quotes the position."""

    def __init__(self, why: str, text: str, at: int) -> None:
        """`at` is the position in the text, in characters from 0."""
        line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
        before = ("…" if at > _QUOTED_CHARS else "") + text[max(at - _QUOTED_CHARS, 0) : at]
        after = text[at : at + _QUOTED_CHARS] + ("…" if len(text) > at + _QUOTED_CHARS else "")
        quoted = " ".join(f"{before}⟨here⟩{after}".split())
        super().__init__(f"{why}, at line {line}, column {column}: {quoted}")


def read_values(text: str) -> list[Any]:
    """Read the objects of a text, mostly one, or a single other value. Raises `NotJsonError`."""
    reader = _Reader(text)
    values: list[Any] = []
    while not reader.at_end():
        values.append(reader.top(first=not values))
    return values


class _Reader:
    """Reads a text from its start; `at` is its position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def at_end(self) -> bool:
        """Skip space and comments, and say whether nothing follows."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at >= len(self.text)

    def top(self, *, first: bool) -> Any:
        """Read a value that is not nested in another one. After the first, only objects may follow."""
        start = self.text[self.at]
        if not first and start != "{":
            self._fail("expected nothing after the first value")
        if not (start in "{[" or start in _STRINGS or start.isalnum() or start in "+-"):
            self._fail("expected a JSON object")
        return self.value(0)

    def value(self, depth: int) -> Any:
        """Read the value that begins here."""
        first = self.text[self.at]
        if first in "{[":
            if depth == MAX_DEPTH:
                self._fail(f"it is nested deeper than {MAX_DEPTH} levels")
            return self._object(depth) if first == "{" else [self.value(depth + 1) for _ in self._items("]", "array")]
        if first in _STRINGS:
            return self._string(first)
        if (found := _NUMBER.match(self.text, self.at)) is None:
            return self._word(depth)
        try:
            number = float(found[0]) if found[1] or found[2] else int(found[0])
        except ValueError:  # more digits than Python reads
            self._fail("the number is too long")
        self.at = found.end()
        return number

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in self._items("}", "object"):
            quote = self.text[start]
            if quote not in _STRINGS:
                self._fail("expected a key in double quotes")
            key = self._string(quote)
            if self.at_end() or self.text[self.at] != ":":
                self._fail("expected a colon")
            self.at += 1
            if self.at_end():
                self._fail("it ends where a value is expected")
            value = self.value(depth + 1)
            if key in found and json.dumps(found[key]) != json.dumps(value):
                self._fail(f"the key {key[:_QUOTED_CHARS]!r} is given twice, with different values", start)
            found[key] = value
        return found

    def _items(self, bracket: str, what: str) -> Iterator[int]:
        """Go to each item up to the closing bracket, whose reader moves on, and yield its position."""
        self.at += 1
        ended = self.at_end()
        while not ended and self.text[self.at] != bracket:
            yield self.at
            ended = self.at_end()
            if not ended and self.text[self.at] == ",":
                self.at += 1
                ended = self.at_end()
            elif not ended and self.text[self.at] != bracket:
                self._fail(f"expected a comma or {bracket}")
        if ended:
            self._fail(f"it ends before the {what} does")
        self.at += 1

    def _string(self, quote: str) -> str:
        start = self.at
        found = _STRINGS[quote].match(self.text, start)
        if found is None:
            self._fail("it ends before this string does", start)

        def escaped(escape: re.Match[str]) -> str:
            letter = escape[1]
            if len(letter) > 1:
                return chr(int(letter[1:], 16))
            if letter == "/" and quote == '"':
                return letter
            if letter not in _ESCAPES:
                self._fail(f"unknown escape \\{letter}", start + 1 + escape.start())
            return _ESCAPES[letter]

        self.at = found.end()
        return _ESCAPE.sub(escaped, found[1])

    def _word(self, depth: int) -> bool | None:
        found = _WORD.match(self.text, self.at)
        word = found[0] if found else ""
        if word not in _WORDS:
            why = "expected a value; a text needs double quotes" if depth else "expected a JSON object"
            if depth and word and (word[0].isdigit() or word[0] in "+-."):
                why = "expected a number as JSON writes it"
            self._fail(f"{word} is not JSON, numbers must be finite" if _NOT_FINITE.fullmatch(word) else why)
        self.at += len(word)
        return _WORDS[word]

    def _fail(self, why: str, at: int | None = None) -> NoReturn:
        raise NotJsonError(why, self.text, self.at if at is None else at)
