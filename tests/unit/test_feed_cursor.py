"""A cursor of the feed is short, gives back what went in, and nothing else is taken for one."""

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.feed_cursor import decode_feed_cursor, encode_feed_cursor
from domain.application.streaming.feed import BEGINNING, FeedCursor
from domain.errors import InvalidInput
from domain.ids import SLICES, Position, Slice

POSITIONS = st.integers(0, 2**63 - 1) | st.integers(0, 300)


@st.composite
def places(draw: st.DrawFn) -> FeedCursor:
    first = draw(st.integers(0, SLICES - 1))
    positions = draw(st.lists(POSITIONS, min_size=1, max_size=min(20, SLICES - first)))
    turn = first + draw(st.integers(0, len(positions) - 1))
    return FeedCursor(Slice(first), tuple(map(Position, positions)), Slice(turn))


@given(places())
def test_what_goes_in_comes_out(place: FeedCursor) -> None:
    assert decode_feed_cursor(encode_feed_cursor(place)) == place


@given(st.text() | st.binary(max_size=40).map(lambda raw: raw.hex()))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="after: must be the next_cursor"):
        decode_feed_cursor(text)


@given(places(), st.data())
def test_a_damaged_cursor_is_refused_or_means_the_same(place: FeedCursor, data: st.DataObject) -> None:
    """The last character of Base64 may have bits that count for nothing."""
    cursor = encode_feed_cursor(place)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("ABCDwxyz0189-_"))
    damaged = cursor[:at] + other + cursor[at + 1 :]
    try:
        assert decode_feed_cursor(damaged) == place
    except InvalidInput:
        assert damaged != cursor


@pytest.mark.parametrize("most", [2_000_000, 5_000_000, 100_000_000, 3_000_000_000])
def test_all_slices_at_positions_of_millions_take_less_than_six_thousand_characters(most: int) -> None:
    chance = random.Random(1)
    spread = min(most, 200_000_000)
    positions = tuple(Position(most - chance.randrange(spread)) for _ in range(SLICES))
    cursor = encode_feed_cursor(FeedCursor(Slice(0), positions, Slice(1_000)))
    assert len(cursor) < 6_000
    assert decode_feed_cursor(cursor).positions == positions


def test_the_beginning_of_everything_is_short() -> None:
    assert len(encode_feed_cursor(BEGINNING)) < 50


def test_a_cursor_cannot_be_inflated_without_end() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(bytes(8_000_000))).decode().rstrip("=")
    assert len(bomb) < 12_000
    with pytest.raises(InvalidInput):
        decode_feed_cursor(bomb)
