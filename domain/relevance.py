"""What a question looks for, and how much older messages have to do with it. Pure functions over counts.

Each store says which terms a message has, and how many messages have each term; the score is made here, so that
all stores rank alike: Okapi BM25 with the frequencies of the one thread, so that a booking code weighs many times what
"flight" does where everybody speaks of flights. What was said shortly before or after counts in part: a question
names the trip, and the answer is in a tool's result that names only its code.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter

from msgspec import Struct

from domain.ids import ThreadId, Version

TERMS = 20
"""Terms of a question, at most: whoever pastes a page asks for its rarest words."""

SATURATION, BY_LENGTH = 1.2, 0.05
"""BM25's k1 and b: how much a long message has to say more to count. Hardly: a tool's result is long, and
what is asked for is mostly in one. Which part of it is shown is another question."""

NEAR, NEARBY = 60, 0.4
"""Events over which a term said nearby fades away to a third, and what it counts at first."""

AROUND = 8
"""Terms that are looked for nearby, those that count most."""

FAR = 20 * NEAR
"""Events after which nothing is left of that."""

FADED = tuple(math.exp(-away / NEAR) for away in range(FAR))
"""What is left after so many events."""

NEVER = 2**40
"""A version that is far from all there are."""

QUESTION = 10_000
"""Characters of a question that are looked at."""

LONGEST, IN_A_ROW = 100, 8
"""Characters and words of a code or a name, at most: what is longer is a text, looked for word by word."""

REFINED = 48
"""Of the messages that match best by themselves, so many are looked at with what was said around them."""

RARE, SEVERAL = 0.05, 3
"""The share of a thread's messages that may have a term, or how many, for it to count as rare."""

EARLIER = 10
"""The rank from which on it matters little in a fusion of rankings how far behind a message is."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

_STOPS = (
    "a about after again all also am an and any anything are as at be been before being but by can could did do",
    "does done for from get give go got had has have he hello her hers hey hi him his how i if in into is it its",
    "just know let like make me mine more most my need no not now of off ok okay on once one only or other our out",
    "over please same say see she should so some tell than thank thanks that the their them then there these they",
    "this those to too up us very want was we were what when where which while who whom whose why will with would",
    "yes you your",
)
STOP_WORDS = frozenset(word for line in _STOPS for word in line.split())
"""Words that say nothing about what is looked for."""

_MONTH = {name[:length].lower(): number for number, name in enumerate(MONTHS, 1) for length in {3, len(name)}}
_NAMES = "|".join(sorted(_MONTH, key=len, reverse=True))
_DATE = re.compile(
    rf"\b(?P<month>{_NAMES})\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b"
    rf"|\b(?P<day_first>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<its_month>{_NAMES})\b"
    r"|\b\d{4}-(?P<iso_month>\d\d)-(?P<iso_day>\d\d)\b",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_TOKEN = re.compile(r"[^\W_]+")
_BLANKS = {number: " " for number in range(128) if not chr(number).isalnum()}
_CODE = re.compile(r"[^\W_](?:[\w.,:/@+-]*[^\W_])?")  # if it has a digit; to look ahead for one takes square time
_NAME = re.compile(r"[A-Z][a-z]+(?: [A-Z][a-z]+)+")
_SUFFIX = re.compile(r"(?:ations?|ings?|ions?|ies|ied|ers?|ed|es|e|s|y)$")


class Term(Struct, frozen=True):
    """Something that a question looks for: any of some `forms`, each of one word or several in a row."""

    text: str
    forms: tuple[str, ...]
    weight: float = 1.0


class Candidate(Struct, frozen=True, gc=False):
    """A message that has some of the terms, as a set of bits. `length` is in words."""

    thread_id: ThreadId
    version: Version
    length: int
    terms: int


class Matches(Struct, frozen=True):
    """What a store found: how many messages there are, how long on average, and how many have each of the terms.

    In a very long thread these are estimates, and candidates only those that have one of the rarer terms.
    """

    messages: float
    length: float
    counts: tuple[float, ...]
    candidates: Sequence[Candidate]


class Hit(Struct, frozen=True, gc=False):
    """A message, in the thread that has it itself, and how much it has to do with what was asked.

    If they are at hand, `signs` are of its words, and `who` said it; see `domain.concordance`. `rare`: it has a term
    itself that few messages of the thread have. `worth` is what each of the terms counts in the thread.
    """

    thread_id: ThreadId
    version: Version
    score: float
    signs: str = ""
    who: str = ""
    rare: bool = True
    worth: Sequence[float] = ()


def terms_of(text: str, most: int = TERMS) -> tuple[Term, ...]:
    """Return what a text looks for: codes, dates and amounts as they stand, names, and words that say something."""
    found: dict[str, Term] = {}
    text = text[:QUESTION]

    def add(text: str, *forms: str, weight: float = 1.0) -> None:
        found.setdefault(text.lower(), Term(text, forms or (text,), weight))

    for date in _DATE.finditer(text):
        add(date[0], *_forms(date))
    text = _DATE.sub(" ", text)

    def take(word: re.Match[str]) -> str:
        code = word[0]
        if not _is_code(code):
            return code
        add(code, *{code: None, code.replace(",", ""): None}, weight=1.5)
        return " "

    text = _CODE.sub(take, text)
    for name in _NAME.findall(text):
        if _is_short(name) and not any(word in STOP_WORDS for word in name.lower().split()):
            add(name)
    for word in _TOKEN.findall(text):
        if 1 < len(word) <= LONGEST and word.lower() not in STOP_WORDS:
            add(word)
    return tuple(found.values())[:most]


def _is_code(text: str) -> bool:
    return _DIGIT.search(text) is not None and _is_short(text)


def _is_short(text: str) -> bool:
    return len(text) <= LONGEST and len(_TOKEN.findall(text)) <= IN_A_ROW


def _forms(date: re.Match[str]) -> Iterable[str]:
    name = date["month"] or date["its_month"]
    month = _MONTH[name.lower()] if name else int(date["iso_month"])
    day = int(date["day"] or date["day_first"] or date["iso_day"])
    yield date[0]
    if 1 <= month <= len(MONTHS):
        full = MONTHS[month - 1]
        names = {full, full[:3]}
        suffix = "th" if day in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
        yield from (f"{each} {day}{end}" for each in sorted(names) for end in ("", suffix))
        yield f"{day} {full}"
    if not date["iso_month"]:
        yield f"-{month:02}-{day:02}"


def words_of(text: str) -> Sequence[str]:
    """Return a text's words as they stand."""
    return text.translate(_BLANKS).split() if text.isascii() else _TOKEN.findall(text)


@lru_cache(10_000)
def stem(word: str) -> str:
    """Return what words of one root have in common, more or less; codes and short words stay as they are."""
    word = word.lower()
    if len(word) <= 3 or not word.isalpha():  # noqa: PLR2004  (such as "bus")
        return word
    stemmed = _SUFFIX.sub("", word)
    return stemmed if len(stemmed) > 2 else word  # noqa: PLR2004


@lru_cache(64)  # a question's terms are looked for in one message after the other
def _wanted(terms: tuple[Term, ...]) -> Sequence[tuple[int, list[str]]]:
    """Return the stems of each form, with its term's number."""
    rows = [(number, list(map(stem, words_of(form)))) for number, term in enumerate(terms) for form in term.forms]
    return [(number, stems) for number, stems in rows if stems]


def places(text: str, terms: Sequence[Term]) -> Sequence[tuple[int, int, int]]:
    """Return where terms occur in a text: where each occurrence begins and ends, and the term's number."""
    lowered = text.lower()
    if len(lowered) != len(text):  # then places in one are not places in the other
        lowered = "".join([low if len(low := each.lower()) == 1 else each for each in text])
    found = set()
    for number, stems in _wanted(tuple(terms)):
        first = stems[0]
        at = lowered.find(first)
        while at >= 0:
            if at and lowered[at - 1].isalnum():  # within a word
                at = lowered.find(first, at + 1)
                continue
            if (word := _TOKEN.match(text, at)) is None:
                break
            if stem(word[0]) == first and (end := _end_of(stems, text, word)) is not None:
                found.add((at, number, end))
            at = lowered.find(first, word.end())
    return [(start, end, number) for start, number, end in sorted(found)]


def _end_of(stems: Sequence[str], text: str, word: re.Match[str]) -> int | None:
    """Return where a row of words ends that begins with a word of a text, if the others follow on it."""
    for expected in stems[1:]:
        following = _TOKEN.search(text, word.end())
        if following is None or stem(following[0]) != expected:
            return None
        word = following
    return word.end()


def weights(matches: Matches, terms: Sequence[Term]) -> Sequence[float]:
    """Return what each term counts: the rarer it is in the thread, the more."""
    return [
        term.weight * math.log1p((max(matches.messages - count, 0) + 0.5) / (count + 0.5))
        for term, count in zip(terms, matches.counts, strict=True)
    ]


def rank(matches: Matches, terms: Sequence[Term], limit: int) -> Sequence[Hit]:
    """Return the messages that have most to do with the terms, the best first; of equals, the newest."""
    worth = weights(matches, terms)
    candidates = sorted(matches.candidates, key=attrgetter("version"), reverse=True)
    totals: dict[int, float] = {}  # many messages have the same terms
    for bits in {candidate.terms for candidate in candidates}:
        totals[bits] = sum(each for number, each in enumerate(worth) if bits >> number & 1) * (1 + SATURATION)
    short, long = 1 + SATURATION * (1 - BY_LENGTH), SATURATION * BY_LENGTH / max(matches.length, 1)
    own = [totals[candidate.terms] / (short + long * candidate.length) for candidate in candidates]
    best = sorted(range(len(candidates)), key=own.__getitem__, reverse=True)[:REFINED]
    around = _around(candidates, [candidates[place] for place in best], worth)
    scores = sorted([(own[place] + more, -place) for place, more in zip(best, around, strict=True)], reverse=True)
    most = max(RARE * matches.messages, SEVERAL)
    rare = sum(1 << number for number, count in enumerate(matches.counts) if count <= most)
    return [
        Hit((c := candidates[-place]).thread_id, c.version, score, rare=bool(c.terms & rare), worth=worth)
        for score, place in scores[:limit]
    ]


def score_of(texts: Iterable[str], terms: Sequence[Term], worth: Sequence[float]) -> float:
    """Return about the score of the best of some messages that were said one after the other."""
    having = [{number for _, _, number in places(text, terms)} for text in texts]
    said = sum(worth[number] for number in frozenset().union(*having))
    own = max((sum(worth[number] for number in terms_) for terms_ in having), default=0.0)
    return own + NEARBY * (said - own)


def _around(candidates: Sequence[Candidate], best: Sequence[Candidate], worth: Sequence[float]) -> Sequence[float]:
    """Return what terms add to the best candidates that have them not, but some near them have.

    These are the terms that count most among those that were said.
    """
    said: list[list[int]] = [[-FAR] for _ in worth]
    having: dict[int, list[Callable[[int], None]]] = {}
    for candidate in reversed(candidates):  # so that versions ascend
        if (terms := candidate.terms) not in having:
            having[terms] = [versions.append for number, versions in enumerate(said) if terms >> number & 1]
        for append in having[terms]:
            append(candidate.version)
    there = [number for number, versions in enumerate(said) if len(versions) > 1]
    most = sorted(there, key=lambda number: -worth[number])[:AROUND]
    looked_for = [(1 << number, worth[number] * NEARBY, [*said[number], NEVER]) for number in most]
    added = []
    for candidate in best:
        total, terms, version = 0.0, candidate.terms, candidate.version
        for bit, full, versions in looked_for:
            if not terms & bit:
                following = bisect_left(versions, version)
                away, behind = versions[following] - version, version - versions[following - 1]
                if behind < away:  # noqa: PLR1730  (this is where ranking takes its time, and `min` twice that)
                    away = behind
                if away < FAR:
                    total += full * FADED[away]
        added.append(total)
    return added


def fuse(rankings: Iterable[tuple[float, Sequence[Hit]]], limit: int) -> Sequence[Hit]:
    """Make one ranking of several, each with a weight, whose scores cannot be compared: by reciprocal rank."""
    scores: dict[tuple[ThreadId, Version], float] = {}
    found: dict[tuple[ThreadId, Version], Hit] = {}
    for weight, ranking in rankings:
        for place, hit in enumerate(ranking, 1):
            key = hit.thread_id, hit.version
            scores[key] = scores.get(key, 0.0) + weight / (EARLIER + place)
            if hit.signs or key not in found:
                found[key] = hit
    hits = [Hit(*key, score, found[key].signs, found[key].who) for key, score in scores.items()]
    return sorted(hits, key=lambda hit: (-hit.score, -hit.version))[:limit]


def rarest(counts: Sequence[float], most: float) -> Sequence[int]:
    """Choose the terms by which to look for candidates: the rarest, as long as there are not too many messages."""
    chosen: list[int] = []
    total = 0.0
    for number in sorted(range(len(counts)), key=lambda number: counts[number]):
        total += counts[number]
        if total > most and chosen:
            break
        chosen.append(number)
    return chosen
