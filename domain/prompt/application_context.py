"""The application's context for the model: a marked block before the user's own words in the user's newest message.

What changes from turn to turn is there, at the end of the prompt. So everything before it equals the last prompt, and
providers that cache prefixes hit. It is in the user's message because strict endpoints accept no system message after
the first one, and want roles to alternate.

No message can open or close the block: whatever looks like its mark loses its bracket in every prompt. The log keeps
texts unchanged.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

from domain.recall.excerpts import Excerpt

BEGINS = "<application_context>\nThis is given by the application. The user has not written it."
ENDS = "\n</application_context>\n\n"

VALUES = "What is known:\n"
RECALLED = "Said before, word for word:\n"

NAME = "applicationcontext"

_BRACKETS = "<\uff1c\ufe64\u2039\u3008\u2329\u27e8\u276e\u2770\u276c\xab\u300a\u27ea\u02c2\u1438\u226e\u22d6\u29fc"
_LOOKALIKES = {
    "a": "\u0430\u0251\u03b1",
    "p": "\u0440\u03c1",
    "l": "\u04cf",
    "i": "\u0456\u03b9\u0131",
    "c": "\u0441\u03f2",
    "t": "\u0442\u03c4",
    "o": "\u043e\u03bf\u03c3",
    "n": "\u043f\u0578",
    "e": "\u0435\u0454",
    "x": "\u0445\u03c7",
}
"""Cyrillic and Greek letters that look like those of the name. Unicode normalizes other forms of a letter."""

_FORM_RANGES = (
    *(range(0x41, 0x5B), range(0xAA, 0x250), range(0x1D00, 0x1F00), range(0x2070, 0x2190), range(0x2460, 0x2500)),
    *(range(0xFF21, 0xFF5B), range(0x1D400, 0x1D800), range(0x1F100, 0x1F1AA)),
)
"""The ranges in which Unicode has forms of Latin letters."""


def _skeletons() -> dict[int, str]:
    """Map each character that looks like one of the mark to that one."""
    skeletons = dict.fromkeys(map(ord, _BRACKETS), "<")
    for number in chain(*_FORM_RANGES):
        base = unicodedata.normalize("NFKD", chr(number)).lower().strip("()")
        if base[:1] in _LOOKALIKES and all(map(unicodedata.combining, base[1:])):
            skeletons[number] = base[0]
    return skeletons | {ord(form): letter for letter, alike in _LOOKALIKES.items() for form in alike + alike.upper()}


_SKELETONS = _skeletons()
_BRACKET = re.compile(f"[{_BRACKETS}]")
_NAME = re.compile(r"[\W_]*".join(NAME))
_BEFORE = re.compile(r"[\W_]*")


def context_block(values: str, recalled: Sequence[Excerpt]) -> str:
    """Write the block; "" if there is nothing in it."""
    parts = (
        VALUES + without_markers(values) if values else "",
        RECALLED + "\n".join(map(indented, recalled)) if recalled else "",
    )
    present = [part for part in parts if part]
    return "\n\n".join([BEGINS, *present]) + ENDS if present else ""


def indented(excerpt: Excerpt) -> str:
    """Write an excerpt for the model: indented, so that none of its lines looks like a heading of the block."""
    return without_markers(f"- {excerpt.who}: " + "\n  ".join(excerpt.text.splitlines()))


def has_no_bracket(text: str) -> bool:
    """Say whether a text has no bracket, and so nothing that looks like the mark. Fast for ASCII."""
    return "<" not in text if text.isascii() else _BRACKET.search(text) is None


def without_markers(text: str) -> str:
    """Escape what looks like the block's mark: brackets before its name, in whatever characters."""
    if has_no_bracket(text):
        return text
    skeleton = text.translate(_SKELETONS)
    backwards = skeleton[::-1]  # a lookahead for the name from each bracket would take quadratic time
    pieces, end = [], 0
    for name in _NAME.finditer(skeleton):
        before = _BEFORE.match(backwards, len(skeleton) - name.start())
        start = len(skeleton) - (before.end() if before else 0)
        pieces += [text[end:start], _BRACKET.sub("&lt;", text[start : name.start()])]
        end = name.start()
    return "".join([*pieces, text[end:]]) if pieces else text


def without_block(text: str) -> str:
    """Return the user's own words of a message that was sent to a model."""
    return text.partition(ENDS)[2] if text.startswith(BEGINS) else text
