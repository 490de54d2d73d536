"""JSON merge patches as defined by RFC 7396, and texts that are made storable."""

import pytest

from domain.json import Json, merge_patch, storable_text

CASES: list[tuple[Json, Json, Json]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "expected"), CASES)
def test_merge_patch(target: Json, patch: Json, expected: Json) -> None:
    assert merge_patch(target, patch) == expected


def test_texts_of_others_are_made_storable() -> None:
    assert storable_text("a\0b\ud800c😀é") == "a\ufffdb\ufffdc😀é"
    assert storable_text("plain") == "plain"
