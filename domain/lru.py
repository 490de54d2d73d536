"""The cache that all modules use: least recently used eviction, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Values by key. The least recently used values are evicted when there are too many values or bytes."""

    def __init__(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Keep at most `max_bytes` of values, and at most `max_entries` values (None: any number)."""
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.size = 0
        """Bytes of all values."""
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        """Whether there is a value. This does not count as a use."""
        return key in self._entries

    def __len__(self) -> int:
        """Count the values."""
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return a value, or None. This counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> Sequence[K]:
        """Store a value of `size` bytes, replacing any previous one; return the keys that were evicted for it."""
        _, before = self._entries.pop(key, (None, 0))
        self._entries[key] = value, size
        self.size += size - before
        gone: list[K] = []
        while self.size > self._max_bytes or (self._max_entries is not None and len(self._entries) > self._max_entries):
            oldest, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed
            gone.append(oldest)
        return gone

    def discard(self, key: K) -> None:
        """Drop a value, if there is one."""
        _, freed = self._entries.pop(key, (None, 0))
        self.size -= freed

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.size = 0
