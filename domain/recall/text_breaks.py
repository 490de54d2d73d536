"""Where a text may be cut: never within a grapheme cluster, and preferably between sentences or words."""

import unicodedata

import regex

from domain.recall.tokenizer import is_spaceless

_EDGE = regex.compile(r"[\s,;{\[\p{Po}\p{Ps}&&[^'’.:/@#%&*\\\"]]", regex.VERSION1)
"""Edges of parts of a text, also in scripts without spaces."""

_JOINER = "\u200d"
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_JOINED_TO_THE_ONE_BEFORE = frozenset("\u200c\u200d\u0e33\u0eb3\uff9e\uff9f")
_PREPENDED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e")
_VIRAMA = 9


def begin_at(text: str, start: int, slack: int) -> int:
    """Move a beginning after an edge that is at most `slack` characters later, else before a whole character."""
    if start <= 0:
        return 0
    edge = _EDGE.search(text, start, start + slack)
    return floor(text, edge.end() if edge else start)


def end_at(text: str, end: int, slack: int) -> int:
    """Move an end that cuts a word before it, by at most `slack` characters, else after a whole character."""
    if end >= len(text):
        return len(text)
    end = floor(text, end)
    if not (text[end - 1 : end].isalnum() and text[end].isalnum()):
        return end
    spaceless = is_spaceless(text[end])
    for at in range(end - 1, max(end - slack, 0), -1):
        if _EDGE.match(text, at) if spaceless else not text[at].isalnum():
            return floor(text, at + 1)
    return end


def floor(text: str, at: int) -> int:
    """Return the last position up to `at` that is not within a grapheme cluster."""
    while 0 < at < len(text) and _joined(text, at):
        at -= 1
    return at


def _joined(text: str, at: int) -> bool:
    """Say whether the characters before and after a position are one cluster; in doubt they are."""
    before, after = text[at - 1], text[at]
    if after < "\u0300":
        return (before == "\r" and after == "\n") or before in _PREPENDED or before == _JOINER
    if after in _JOINED_TO_THE_ONE_BEFORE or unicodedata.category(after) in {"Mn", "Mc", "Me"}:
        return True
    if before == _JOINER or before in _LEADING_VOWELS or before in _PREPENDED or _is_extending(after):
        return True
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if _is_jamo(after) or (_is_jamo(before) and "\uac00" <= after <= "\ud7a3"):
        return _is_jamo(before) or "\uac00" <= before <= "\ud7a3"
    return _is_flag(after) and _flags_before(text, at) % 2 == 1


def _is_extending(char: str) -> bool:
    """Say whether a character is a skin tone, or part of a flag's tag."""
    return "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f"


def _is_jamo(char: str) -> bool:
    return "\u1100" <= char <= "\u11ff" or "\ua960" <= char <= "\ua97c" or "\ud7b0" <= char <= "\ud7fb"


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _flags_before(text: str, at: int) -> int:
    first = at
    while first and _is_flag(text[first - 1]):
        first -= 1
    return at - first
