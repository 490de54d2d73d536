"""The cache of this code base: least recently used values, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Values by key. The least recently used are evicted when there are too many values or bytes."""

    def __init__(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Keep at most `max_bytes` of values, and at most `max_entries` of them (None: any number)."""
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.size = 0
        """Bytes of all values."""
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        """Whether there is a value. This does not count as use."""
        return key in self._entries

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return a value and mark it as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> Sequence[K]:
        """Store a value of `size` bytes, replacing the one before. Return the keys that were evicted."""
        _, before = self._entries.pop(key, (None, 0))
        self._entries[key] = value, size
        self.size += size - before
        evicted: list[K] = []
        while self.size > self._max_bytes or (self._max_entries is not None and len(self._entries) > self._max_entries):
            oldest, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed
            evicted.append(oldest)
        return evicted

    def discard(self, key: K) -> None:
        """Remove a value if there is one."""
        _, freed = self._entries.pop(key, (None, 0))
        self.size -= freed

    def clear(self) -> None:
        """Remove all values."""
        self._entries.clear()
        self.size = 0
