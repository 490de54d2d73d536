"""Excerpts are parts of messages, within the allowance, whatever was said."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.ids import Version
from domain.recall.excerpts import EXCERPT_OVERHEAD_TOKENS, FoundMessage, excerpts
from domain.recall.terms import MAX_QUERY_COST, MAX_TERMS, occurrences, terms_of
from tests.support.examples import examples

WORDS = st.sampled_from(
    ["refund", "PEP4E0", "New York", "May 20", "2024-05-20", "$1,234.50", "the", "\x00", "é", '{"a": 1}', "'|&"]
)
TEXTS = st.lists(WORDS | st.text(max_size=12), max_size=60).map(" ".join)


def count(text: str) -> int:
    return -(-len(text.encode()) // 3)


@given(st.lists(TEXTS, max_size=8), TEXTS, st.integers(-5, 400))
def test_excerpts_keep_within_their_room(texts: list[str], question: str, room: int) -> None:
    found = [FoundMessage(Version(version), "user", text) for version, text in enumerate(texts, 1)]
    chosen = excerpts(list(reversed(found)), terms_of(question), room, count)
    assert sum(each.tokens + EXCERPT_OVERHEAD_TOKENS for each in chosen) <= max(room, 0)
    versions = [each.message for each in chosen]
    assert len(versions) == len(set(versions))
    for each in chosen:
        text = texts[each.message - 1]
        assert each.text
        assert text[each.start : each.start + len(each.text)] == each.text
        assert each.tokens == count(each.text)


@settings(max_examples=examples(50))
@given(TEXTS)
@example("refund PEP4E0 New York May 20 2024-05-20 \u00be 00 0\u30a1 0\U00020000 000 01*02 1*2*5")
@example("Au Ca")
@example("".join(map(chr, range(0x4E00, 0x4E40))))
def test_a_text_has_its_own_terms(text: str) -> None:
    terms = terms_of(text)
    assert len(terms) <= MAX_TERMS
    assert sum(term.cost for term in terms) <= MAX_QUERY_COST
    assert all(term.forms and term.text for term in terms)
    found = {number for _, _, number in occurrences(text, terms)}
    assert found == set(range(len(terms)))
