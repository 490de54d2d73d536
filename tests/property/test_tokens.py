"""The keys of a text do not depend on its Unicode form, and no text takes long."""

import time
import tracemalloc
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.recall.terms import exact_search, occurrences, terms_of
from domain.recall.tokenizer import located
from domain.recall.word_index import index_of
from tests.support.keys import keys_of

SAMPLES = st.sampled_from(
    [
        "Où est l’hôpital où Émilie a été opérée ?",
        "Die Größe für Müller: naïve Straßenbahnhaltestelle",
        "Моя кошка живёт в Казани, й и ё",
        "القِطّة في المُستشفى ١٢٣ أ إ آ",
        "我的橘猫叫豆豆，订单ＤＬ２０９３１",
        "ｶﾞｲﾄﾞﾌﾞｯｸとガイドブック、がぎぐげご",
        "우리 고양이가 아파요",
        "น้ำตาลในกาแฟ แพ้ยาเพนิซิลลิน",
        "नमस्ते दुनिया हिन्दी क़िला",
        "Καλημέρα κόσμε, ΌΠΩΣ ὅπως",
        "PEP4E0: credit_card_4421486, $1,234.50! May 20th",
    ]
)
TEXTS = st.lists(SAMPLES | st.text(max_size=12), max_size=5).map(" ".join)
LETTERS = st.lists(SAMPLES | st.text(st.characters(categories=("Lu", "Ll", "Nd", "Zs")), max_size=12), max_size=5).map(
    " ".join
)


@given(TEXTS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_normal_forms_of_a_text_are_found_by_the_same(text: str, form: str) -> None:
    other = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    assume(unicodedata.normalize("NFKD", other) == unicodedata.normalize("NFKD", text))
    assert keys_of(other) == keys_of(text)
    assert index_of(other) == index_of(text)
    assert exact_search(other) == exact_search(text)
    assert [term.forms for term in terms_of(other)] == [term.forms for term in terms_of(text)]


@given(LETTERS)
def test_case_makes_no_difference_to_what_a_message_is_found_by(text: str) -> None:
    assert keys_of(text.lower()) == keys_of(text.casefold())
    assert keys_of(text.upper()) == keys_of(text.upper().casefold())
    assert exact_search(text.upper()) == exact_search(text.upper().lower())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＰＥＰ４Ｅ０ Ｒｅｆｕｎｄ", "PEP4E0 refund"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("ﾊﾟｽﾎﾟｰﾄ", "パスポート"),
        ("ﬁnal", "final"),
        ("①号", "1号"),
        ("٣ مارس", "3 مارس"),
        ("STRASSE", "straße"),
        ("ΟΔΟΣ", "οδος"),
        ("Москва\u0301", "МОСКВА"),
        ("co\u00adop\u200berate", "cooperate"),
        ("می\u200cخواهم", "میخواهم"),
        ("كتـــاب", "كِتَاب"),
        ("sœur", "soeur"),
        ("Åse", "ase"),
    ],
)
def test_ways_to_write_a_word_are_one(one: str, other: str) -> None:
    assert keys_of(one) == keys_of(other)
    assert index_of(one) == index_of(other)


@given(TEXTS)
def test_a_text_has_its_own_terms_where_they_stand(text: str) -> None:
    terms = terms_of(text)
    spots = occurrences(text, terms)
    assert all(0 <= start < end <= len(text) for start, end, _ in spots)
    assert {number for _, _, number in spots} >= {n for n, term in enumerate(terms) if term.cost == 1}


@given(TEXTS)
def test_keys_are_where_they_stand_and_words_are_letters_and_digits(text: str) -> None:
    assert all(0 <= start < end <= len(text) for _, start, end in located(text))
    for word in index_of(text).words.split():
        assert not set(word) & set("'\\:&|!()<>*"), "nothing in it is an operator of a query"


@given(TEXTS)
def test_a_message_has_the_words_of_a_search_for_its_whole_text(text: str) -> None:
    words = set(index_of(text).words.split(" "))
    for group in exact_search(text):
        assert any(words.issuperset(row) for row in group), group


def test_digits_that_unicode_got_after_python_do_not_stop_a_text() -> None:
    """The library that finds digits knows a newer Unicode than Python, whose tables say which digit they are."""
    for digit in ["\U00011f51", "\U0001e4f1", "\U00010d41", "\U00016d71"]:
        assert keys_of(f"fare {digit}")[0] == "far"
        assert index_of(f"fare {digit}").words
        assert terms_of(f"fare {digit}")
        assert occurrences(f"fare {digit}", terms_of("fare"))


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_characters_have_words(text: str) -> None:
    assert isinstance(index_of(text).words, str)
    assert all(key for key, _, _ in located(text))
    assert len(terms_of(text)) <= 40


def test_long_words_are_not_kept() -> None:
    """Such as files as text: a process keeps what words are found by, and thousands of these would fill it."""
    index_of("x щ")
    tracemalloc.start()
    try:
        for number in range(20):
            index_of(f"{number}x" * 20_000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 400_000


LONG = 20_000


@pytest.mark.parametrize(
    "text",
    [
        "a" * LONG,
        "é" * LONG,
        "ß1" * (LONG // 2),
        "a" + "\u0301\u0316" * (LONG // 2),
        "a\u0316\u0301" * (LONG // 3),
        "\u200d" * LONG,
        "\u202e\u2067a" * (LONG // 3),
        "👨\u200d👩\u200d👧\ufe0f" * (LONG // 6),
        "🇩🇪" * (LONG // 2),
        "क्" * (LONG // 2),
        "가" * LONG,
        "\u1100" * LONG,
        "ก็" * (LONG // 2),
        "เ" * LONG,
        "漢" * LONG,
        "的" * LONG,
        "の" * LONG,
        "ﷺ" * LONG,
        "ِ" * LONG,
        "م" * LONG,
        "щ" * LONG,
        "Donaudampfschiff" * (LONG // 16) + " der die das ist",
        "9漢" * (LONG // 2),
        "1," * (LONG // 2),
        "'" * LONG,
    ],
    ids=lambda text: f"{text[:2]!a}",
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.process_time()  # not by the clock: others take the processor, too
    index_of(text)
    terms = terms_of(text)
    exact_search(text)
    occurrences(text, terms)
    assert time.process_time() - begun < 4
    short = time.process_time()
    index_of(text[: LONG // 10])
    occurrences(text[: LONG // 10], terms)
    assert time.process_time() - short < 1
