"""What a prompt says, as far as a few patterns can tell: numbers, options, yes or no, and what follows a name.

All patterns take linear time, see `model.py`; the text that they read is bounded.
"""

import re
from collections.abc import Sequence
from itertools import islice

from domain.json import Json
from domain.prompt.summary import cut

MAX_READ_CHARS = 20_000
"""The end of a prompt that is read."""

MAX_TEXT_CHARS = 200
MAX_NUMBERS = 1_000
MIN_NOUN_CHARS = 3
"""Shorter words have no endings."""

MIN_WORD_CHARS = 4
"""Shorter words of a name do not stand for it."""

NEAR_CHARS = 20
"""How far before a name a negation counts."""

_NUMBER = re.compile(r"(?<![\w.-])-?(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.[0-9]{1,9})?(?!-?\w)")
_NO = re.compile(r"\b(?:no|not|never|none|false|nor|neither|without)\b|n['’]t\b", re.IGNORECASE)
_YES_OR_NO = re.compile(rf"(?P<yes>\b(?:yes|true|yeah|sure|please)\b)|{_NO.pattern}", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|[0-9]+")
_SET = re.compile(
    r"""\s{0,3}(?:[:=]\s{0,3}|is\s{1,3})["“]?(?P<all>[^\n,;.!?"”]{1,200})|\s{0,3}["“](?P<quoted>[^"”\n]{1,200})"""
)
_TOKEN = re.compile(r"\s{0,3}(?:(?:number|no\.|nr\.?|#)\s{0,3})?#?(?P<token>(?=[A-Z]|\S{0,30}[0-9])[\w/@.+-]{1,100})")


class PromptFacts:
    """Reads one text."""

    def __init__(self, text: str) -> None:
        self.read = text[-MAX_READ_CHARS:]
        self.text = cut(" ".join(self.read.split()), MAX_TEXT_CHARS)
        found = islice(_NUMBER.finditer(self.read), MAX_NUMBERS)
        self.numbers = [(match.start(), float(match[0].replace(",", ""))) for match in found]
        """Where each number is, and the number."""

    def find(self, words: str, *, last: bool = False) -> re.Match[str] | None:
        """Find a phrase, whatever is between its words, with the usual endings; the first one, or the `last`."""
        parts = [re.escape(part) for part in _WORDS.findall(words)]
        if not parts:
            return None
        phrase = r"[\s_-]{0,3}".join(parts) + (r"(?:s|es|ed|ing)?" if len(parts[-1]) >= MIN_NOUN_CHARS else "")
        found = re.finditer(rf"(?<![^\W_]){phrase}(?![^\W_])", self.read, re.IGNORECASE)
        matches = list(islice(found, None if last else 1))
        return matches[-1] if matches else None

    def find_name(self, name: str) -> re.Match[str] | None:
        """Find the name of a field, else one of its longer words."""
        words = [word for word in _WORDS.findall(name) if len(word) >= MIN_WORD_CHARS]
        return next((match for each in (name, *words) if (match := self.find(each))), None)

    def option(self, options: Sequence[Json]) -> Json | None:
        """Return the option that the text names last, else the one of which it has the most words; None if none."""
        named = [(match.start(), place) for place, o in enumerate(options) if (match := self.find(str(o), last=True))]
        if named:
            return options[max(named, key=lambda each: each[0])[1]]
        shares = [sum(len(w) >= MIN_WORD_CHARS and bool(self.find(w)) for w in _WORDS.findall(str(o))) for o in options]
        best = max(shares, default=0)
        return options[shares.index(best)] if best else None

    def says_yes(self, name: str) -> bool | None:
        """Say whether the text affirms a name, or without one anything; None if it does not say."""
        if match := self.find_name(name):
            after = self.read[match.end() : match.end() + NEAR_CHARS // 2]
            before = self.read[max(match.start() - NEAR_CHARS, 0) : match.start()]
            return not (_NO.search(before) or re.match(r"\W{0,3}(?:is )?(?:no|not|false)\b", after, re.IGNORECASE))
        answers = [match["yes"] is not None for match in _YES_OR_NO.finditer(self.read)]
        return answers[-1] if answers else None

    def value_of(self, name: str) -> str | None:
        """Return what follows a name: `name: this`, `name is this`, `name "this"`, `order A-17`; else None."""
        match = self.find_name(name)
        if match is None:
            return None
        if found := _SET.match(self.read, match.end()):
            return (found["all"] or found["quoted"]).strip() or None
        found = _TOKEN.match(self.read, match.end())
        return found["token"].rstrip(".-+/") or None if found else None

    def near(self, name: str) -> int | None:
        """Return where a name is."""
        match = self.find_name(name)
        return match.end() if match else None
