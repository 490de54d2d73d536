"""A page of a list."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """A page of a list. `next_cursor` is null on the last page."""

    items: Sequence[T]
    next_cursor: str | None
