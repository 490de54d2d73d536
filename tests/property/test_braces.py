"""Braces find the end of an object, however its text is cut."""

import json
from typing import Any

from hypothesis import given as for_all
from hypothesis import strategies as st

from infrastructure.models.openai.tool_calls import Braces

TEXT = st.text(alphabet='a"\\{}[] é', max_size=8)
VALUES = st.recursive(
    TEXT | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@for_all(st.dictionaries(TEXT, VALUES, max_size=3), st.lists(st.integers(1, 9), max_size=9))
def test_an_object_is_closed_at_its_end_and_not_before(value: dict[str, Any], sizes: list[int]) -> None:
    text, braces, start = json.dumps(value, ensure_ascii=False), Braces(), 0
    for size in [*sizes, len(text)]:
        braces.follow(text[start : start + size])
        start += size
        assert braces.are_closed == (start >= len(text))
