"""Texts are cut between grapheme clusters, in any script, and excerpts keep within their room."""

import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import Version
from domain.recall.excerpts import FoundMessage, excerpts, passage
from domain.recall.terms import terms_of
from domain.recall.text_breaks import floor

PIECES = st.sampled_from(
    [
        "e\u0301",
        "👨\u200d👩\u200d👧",
        "👍🏽",
        "🇩🇪🇫🇷",
        "क्षि",
        "น้ำ",
        "เก้า",
        "각",
        "\u1112\u1161\u11ab",
        "ｶﾞ",
        "🏴\U000e0067\U000e0062\U000e007f",
        "☎️",
        "\r\n",
        "我的猫叫豆豆，",
        "薬はペニシリンです。",
        "refund PEP4E0, ",
        "القِطّة ",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=6), max_size=40).map("".join)


def count(text: str) -> int:
    return sum(1 if char.isascii() else 8 for char in text)


@given(TEXTS, st.data())
def test_a_cut_is_never_within_a_character(text: str, data: st.DataObject) -> None:
    ends = {0, *(found.end() for found in regex.finditer(r"\X", text))}
    at = data.draw(st.integers(0, len(text)))
    assert floor(text, at) in ends
    assert floor(text, at) <= at


@given(TEXTS, st.integers(1, 400), TEXTS)
def test_excerpts_are_whole_characters_within_their_room(text: str, room: int, question: str) -> None:
    ends = {0, *(found.end() for found in regex.finditer(r"\X", text))}
    for each in excerpts([FoundMessage(Version(1), "user", text)], terms_of(question), room, count):
        assert each.text
        assert each.tokens == count(each.text) <= room
        assert {each.start, each.start + len(each.text)} <= ends


@pytest.mark.parametrize(
    ("text", "question", "shown"),
    [
        ("今天天气很好。" * 40 + "我的猫叫豆豆。" + "我们去公园散步。" * 40, "猫叫什么？", "我的猫叫豆豆。"),
        (
            "昨日は雨でした。" * 40 + "薬はペニシリンです。" + "散歩に行きます。" * 40,
            "ペニシリン",
            "薬はペニシリンです。",
        ),
        ("วันนี้ฝนตก " * 40 + "แพ้ยาเพนิซิลลิน " + "ไปเดินเล่น " * 40, "แพ้ยาอะไร", "แพ้ยาเพนิซิลลิน "),
        (
            "Heute regnet es. " * 40 + "Die Kätzchen heißen Mimi. " + "Wir gehen. " * 40,
            "Kätzchen",
            "Kätzchen heißen Mimi. ",
        ),
    ],
)
def test_excerpts_begin_and_end_with_sentences_or_words(text: str, question: str, shown: str) -> None:
    found = passage(FoundMessage(Version(1), "user", text), terms_of(question), 80, len)
    assert found is not None
    assert shown in found.text
    before, after = text[found.start - 1], text[found.start + len(found.text) - 1]
    assert not before.isalnum()
    assert not after.isalnum()


@pytest.mark.parametrize("char", ["\u0301", "\u200d", "🇩", "\u1100", "क्", "é", "漢", "ก็"])
def test_no_text_takes_long_to_cut(char: str) -> None:
    text = "x" + char * 20_000
    begun = time.process_time()
    passage(FoundMessage(Version(1), "user", text), terms_of("x"), 100, len)
    assert time.process_time() - begun < 2
