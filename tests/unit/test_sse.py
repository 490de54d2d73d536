"""The parser of event streams does not depend on how the stream is cut into chunks."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from infrastructure.models.openai.response import EventStreamParser

PARTS = [
    b"data: {}\n",
    b"data:x\r\n",
    b"data: \xf0\x9f\x8e\x89\r",
    b"\n",
    b"\r\n",
    b"\r",
    b": note\n",
    b"event: e\n",
    b"data\n",
    b"data: [DONE]",
    b"\xef\xbb\xbf",
    b"\xff",
]


def parsed(*chunks: bytes) -> list[str]:
    parser = EventStreamParser()
    return [data for chunk in chunks for data in parser.feed(chunk)] + parser.end()


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS)).map(b"".join), st.lists(st.integers(0, 200)))
def test_chunks_may_end_at_any_byte(stream: bytes, ends: list[int]) -> None:
    cuts = sorted({0, len(stream), *(end for end in ends if end < len(stream))})
    whole = parsed(stream)
    assert parsed(*(stream[a:b] for a, b in pairwise(cuts))) == whole
    assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == whole


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_every_event_comes_out_as_it_went_in(texts: list[str]) -> None:
    for end in ("\n", "\r", "\r\n"):
        stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
        assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == texts


def test_lines_of_one_event_are_joined() -> None:
    assert parsed(b"data: a\ndata: b\ndata:  c\n\n") == ["a\nb\n c"]


def test_comments_and_other_fields_are_no_data() -> None:
    assert parsed(b": ping\n\nevent: x\nid: 3\nretry: 9\ndatum: no\n\ndata: yes\n\n") == ["yes"]


def test_a_mark_of_byte_order_is_no_part_of_the_first_line() -> None:
    assert parsed(b"\xef\xbb", b"\xbfdata: a\n\n") == ["a"]


def test_the_last_event_needs_no_blank_line_but_its_line_must_be_whole() -> None:
    assert parsed(b"data: a\n") == ["a"]
    assert parsed(b"data: a\n\ndata: b") == ["a"]
    assert parsed(b"data: a\n\ndata: [DONE]") == ["a", "[DONE]"]
