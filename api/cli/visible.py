r"""Making texts safe for a terminal: what controls it, reorders the line or is invisible is spelled out.

Texts come from models, tools, threads and errors. A terminal obeys their control characters (colours, titles, links,
the clipboard), and bidirectional or invisible characters let a person read something else than what is there. So such a
character is shown as `\u202e`. All that the command line prints passes `visible`; what a person approves passes
`spelled_out`.
"""

import re
import unicodedata
from collections.abc import Callable

_INVISIBLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Separators of lines, marks of direction, and what Unicode calls default ignorable: nothing is drawn for it."""

_FLAG = "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
_SPECIAL = re.compile(rf"{_FLAG}|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_INVISIBLE}]")
"""Flags of regions, which contain invisible letters, and single characters that are shown only in some places."""

_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_REGIONS = {
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in name) + "\U000e007f"
    for name in ("gbeng", "gbsct", "gbwls")
}
"""The flags that exist: England, Scotland, Wales."""

_JOINERS = "\u200c\u200d"
_EMOJI_SELECTORS = "\ufe0e\ufe0f"
_BLANK = "\u2800"
"""A Braille pattern without dots: it looks like a space."""

_HELD = re.compile(rf"(?:[\r{_JOINERS}]|\U0001f3f4[\U000e0020-\U000e007e]*)\Z")
"""The end of a text that may be the middle of something ordinary."""

MAX_HELD_CHARACTERS = 16


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if char <= "\uffff" else f"\\U{ord(char):08x}"


def visible(text: str) -> str:
    """Spell out control, bidirectional and invisible characters, except tab and newline.

    Ordinary text stays as it is, including joiners within words and emoji, and the selectors of emoji.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii():
        return _ASCII_CONTROL.sub(lambda found: _escape(found[0]), text)
    return _shown(text, 0)


def spelled_out(text: str) -> str:
    """Spell out everything that is not plainly visible, newlines too: for what a person approves, on one line."""
    return "".join(
        char if char.isprintable() and char != _BLANK and not _SPECIAL.match(char) else _escape(char) for char in text
    )


def visible_json(document: str) -> str:
    """Write such characters of a JSON document as JSON's escapes: it is safe to look at, and has the same value."""
    return _shown(document, 0, escape=_json_escape)


class VisibleParts:
    """Makes a text visible that comes in parts: what is ordinary is so wherever it was parted."""

    def __init__(self) -> None:
        self._before = ""
        self._held = ""

    def add(self, part: str) -> str:
        """Return what can be printed. The middle of a word or an emoji waits for the next part."""
        text = self._held + part
        end = _HELD.search(text)
        cut = end.start() if end and len(text) - end.start() <= MAX_HELD_CHARACTERS else len(text)
        self._held = text[cut:]
        return self._print(text[:cut], self._held)

    def end(self) -> str:
        """Return what has waited. The next part begins another text."""
        rest = self._print(self._held, "")
        self._before = self._held = ""
        return rest

    def _print(self, text: str, after: str) -> str:
        text = text.replace("\r\n", "\n")
        joined = self._before + text
        shown = _shown(joined + after, len(self._before), len(joined))
        self._before = joined[-2:]
        return shown


def _shown(text: str, start: int, end: int | None = None, escape: Callable[[str], str] = _escape) -> str:
    parts, last, end = [], start, len(text) if end is None else end
    for found in _SPECIAL.finditer(text, start, end):
        if not _is_ordinary(text, found):
            parts += [
                text[last : found.start()],
                "".join(char if char == "\U0001f3f4" else escape(char) for char in found[0]),
            ]
            last = found.end()
    return "".join([*parts, text[last:end]])


def _is_ordinary(text: str, found: re.Match[str]) -> bool:
    """Return whether an invisible character belongs to its neighbours: then it changes how they look."""
    char, before = found[0], text[max(found.start() - 2, 0) : found.start()]
    after = text[found.end() : found.end() + 1]
    if len(char) > 1:
        return char in _REGIONS
    if not before:
        return False
    if char in _EMOJI_SELECTORS:
        return unicodedata.category(before[-1]) in {"So", "Sm", "Po", "Pd", "Nd", "Sk"}
    if "\U000e0100" <= char <= "\U000e01ef":
        return unicodedata.name(before[-1], "").startswith("CJK UNIFIED")
    if char not in _JOINERS or not after:
        return False
    if _is_letter(before[-1]) and _is_letter(after):
        return True
    base = before[-2:-1] if before[-1] in _EMOJI_SELECTORS else before[-1]
    return char == "\u200d" and bool(base) and _is_emoji(base) and _is_emoji(after)


def _is_letter(char: str) -> bool:
    """Return whether a character is a letter, or a mark on one, of a script that joins letters."""
    return not char.isascii() and unicodedata.category(char) in {"Lo", "Mn", "Mc"}


def _is_emoji(char: str) -> bool:
    return char in "\u2194\u2195" or unicodedata.category(char) in {"So", "Sk"}


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
