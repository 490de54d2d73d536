"""Where a text may be cut: never within a grapheme cluster, and preferably between sentences or words."""

import regex

from domain.recall.tokenizer import is_spaceless

_EDGE = regex.compile(r"[\s,;{\[\p{Po}\p{Ps}&&[^'’.:/@#%&*\\\"]]", regex.VERSION1)
"""Edges of parts of a text, also in scripts without spaces."""

_JAMO, _SYLLABLES, _FLAG = r"\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb", r"\uac00-\ud7a3", r"[\U0001f1e6-\U0001f1ff]"
_WITHIN_CLUSTER = regex.compile(
    r"(?<=\r)(?=\n)"
    r"|(?<=[\u200d\p{GCB=Prepend}])"
    r"|(?=[\p{M}\u200c\u200d\u0e33\u0eb3\uff9e\uff9f])"
    r"|(?=[\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f])"  # skin tones, and the tags of flags
    r"|(?<=[เแโใไເແໂໃໄ\p{ccc=Virama}])(?=[^\0-\u02ff])"
    rf"|(?<=[{_JAMO}{_SYLLABLES}])(?=[{_JAMO}])|(?<=[{_JAMO}])(?=[{_SYLLABLES}])"
    rf"|(?<=(?<!{_FLAG})(?:{_FLAG}{_FLAG})*{_FLAG})(?={_FLAG})"
)
"""A position within a grapheme cluster; in doubt it is within one."""


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
    if text.isascii():
        return at - (text[at - 1 : at + 1] == "\r\n")
    while 0 < at < len(text) and _WITHIN_CLUSTER.match(text, at):
        at -= 1
    return at
