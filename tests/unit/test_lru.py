"""The cache evicts the least recently used values when there are too many bytes."""

from uuid import UUID

from domain.ids import ThreadId
from domain.lru import Lru

ONE, TWO, THREE = (ThreadId(UUID(int=number)) for number in (1, 2, 3))


def test_what_was_used_last_stays() -> None:
    recent = Lru[ThreadId, str](100)
    recent.put(ONE, "one", 40)
    recent.put(TWO, "two", 40)
    assert recent.get(ONE) == "one"
    recent.put(THREE, "three", 40)
    assert [recent.get(each) for each in (ONE, TWO, THREE)] == ["one", None, "three"]


def test_what_takes_the_place_of_something_is_counted_once() -> None:
    recent = Lru[ThreadId, str](100)
    recent.put(TWO, "two", 40)
    for size in (10, 60, 20, 60):
        recent.put(ONE, str(size), size)
    assert [recent.get(each) for each in (ONE, TWO)] == ["60", "two"]
    recent.put(THREE, "three", 1)
    assert [recent.get(each) for each in (ONE, TWO, THREE)] == [None, "two", "three"]


def test_what_is_larger_than_all_that_may_be_kept_is_not_kept() -> None:
    recent = Lru[ThreadId, str](100)
    recent.put(ONE, "one", 101)
    assert recent.get(ONE) is None
    recent.put(TWO, "two", 100)
    assert recent.get(TWO) == "two"
