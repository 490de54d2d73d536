"""The word index of a thread finds what the texts hold, however the thread was extended."""

from array import array
from collections.abc import Sequence
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.ids import ThreadId, Version
from domain.recall.terms import occurrences, terms_of
from domain.recall.word_index import SEPARATOR, WordIndex, matches, term_id_of, term_ids_of
from tests.support.keys import keys_of

THREAD, FORK = ThreadId(UUID(int=1)), ThreadId(UUID(int=2))
WORDS = st.sampled_from(
    [
        "refund",
        "refunds",
        "PEP4E0",
        "New York",
        "New",
        "York",
        "May 20",
        "2024-05-20",
        "$1,234.50",
        "the",
        "credit_card_7",
        "Zahnarzttermin",
        "der Termin ist",
        "l’été",
        "кошка",
        "我的猫",
        "猫",
        "แพ้ยา",
        "ｶﾞｲﾄﾞ",
        "여동생의",
        "القطة",
    ]
)
TEXTS = st.lists(WORDS | st.text(max_size=8), max_size=12).map(" ".join)

WHO = [("user", "find_flight", "assistant")[number % 3] for number in range(40)]


def told(versions: Sequence[int], signs: Sequence[str]) -> WordIndex:
    return WordIndex().extended(versions, signs, WHO[: len(signs)])


@given(st.lists(TEXTS, max_size=8), TEXTS)
def test_a_message_has_the_terms_that_its_text_has(texts: list[str], question: str) -> None:
    terms = terms_of(question)
    assume(not _mistakable([*texts, question]))
    whole = told(range(1, len(texts) + 1), list(map(term_ids_of, texts)))
    found = matches([(THREAD, whole, Version(len(texts)))], terms)
    expected = {
        version: sum({1 << number for _, _, number in occurrences(text, terms)})
        for version, text in enumerate(texts, 1)
    }
    assert {each.version: each.terms for each in found.candidates} == {v: bits for v, bits in expected.items() if bits}
    assert found.messages == len(texts)
    assert found.counts == tuple(float(sum(b >> n & 1 for b in expected.values())) for n in range(len(terms)))


@given(st.lists(TEXTS, max_size=40), st.data(), TEXTS)
def test_read_in_portions_and_asked_in_between_it_is_the_same(
    texts: list[str], data: st.DataObject, question: str
) -> None:
    signs, terms = list(map(term_ids_of, texts)), terms_of(question)
    versions = sorted(data.draw(st.sets(st.integers(1, 500), min_size=len(texts), max_size=len(texts))))
    whole, part = told(versions, signs), WordIndex()
    while len(part.versions) < len(texts):
        matches([(THREAD, part, part.last)], terms)
        first = len(part.versions)
        upto = data.draw(st.integers(first + 1, len(texts)))
        part = part.extended(versions[first:upto], signs[first:upto], WHO[first:upto])
    assert part.text.split(SEPARATOR)[:-1] == signs
    assert replace(part, known={}) == whole
    for version, its, who in zip(versions, signs, WHO, strict=False):
        assert part.at(Version(version)) == (its, who)
    assert part.last == max(versions, default=0)
    before = data.draw(st.integers(0, 500))
    earlier = sum(version <= before for version in versions)
    cut = told(versions[:earlier], signs[:earlier])
    expected = matches([(THREAD, cut, Version(before))], terms)
    assert matches([(THREAD, whole, Version(before))], terms) == expected
    assert matches([(THREAD, part, Version(before))], terms) == expected


def test_what_many_messages_have_is_kept_and_continued() -> None:
    texts = ["a refund" if number % 2 else "a seat" for number in range(30)]
    said, (refund,) = told(range(1, 31), list(map(term_ids_of, texts))), terms_of("refund")
    assert matches([(THREAD, said, Version(30))], [refund]).counts == (15,)
    assert said.known == {term_ids_of("refund"): array("i", range(1, 30, 2))}
    longer = said.extended([40, 41], [term_ids_of("the refunds"), term_ids_of("seats")], ["user", "user"])
    assert longer.known == {term_ids_of("refund"): array("i", [*range(1, 30, 2), 30])}
    assert matches([(THREAD, longer, Version(41))], [refund]).counts == (16,)
    assert matches([(THREAD, longer, Version(30))], [refund]).counts == (15,)


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(0, 8), TEXTS)
def test_a_fork_is_searched_as_if_it_were_one_thread(texts: list[str], left: int, question: str) -> None:
    signs, left, terms = list(map(term_ids_of, texts)), min(left, len(texts)), terms_of(question)
    versions = range(1, len(texts) + 1)
    whole = told(versions, signs)
    own = told(versions[left:], signs[left:])
    end = Version(len(texts))
    forked = matches([(FORK, own, end), (THREAD, whole, Version(left))], terms)
    alone = matches([(THREAD, whole, end)], terms)
    assert (forked.messages, forked.length, forked.counts) == (alone.messages, alone.length, alone.counts)
    assert [(c.version, c.terms) for c in forked.candidates] == [(c.version, c.terms) for c in alone.candidates]
    assert all((each.thread_id == FORK) == (each.version > left) for each in forked.candidates)


def _mistakable(texts: list[str]) -> bool:
    """Say whether two keys happen to share a sign."""
    keys = {key for text in texts for key in keys_of(text)}
    keys |= {key for text in texts for term in terms_of(text) for row in term.forms for key in row}
    return len({term_id_of(key) for key in keys}) < len(keys)
