"""What was used last of many threads, in a bounded number of bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

from domain.ids import ThreadId

V = TypeVar("V")


class Recent(Generic[V]):
    """Something of each of the threads that were used last."""

    def __init__(self, kept: int) -> None:
        """Keep at most so many bytes."""
        self._kept = kept
        self._size = 0
        self._threads: OrderedDict[ThreadId, tuple[V, int]] = OrderedDict()

    def get(self, thread_id: ThreadId) -> V | None:
        """Return what there is of a thread."""
        if thread_id not in self._threads:
            return None
        self._threads.move_to_end(thread_id)
        return self._threads[thread_id][0]

    def put(self, thread_id: ThreadId, value: V, size: int) -> None:
        """Keep something of so many bytes in the place of what there was, as long as there is room for it."""
        _, before = self._threads.pop(thread_id, (None, 0))
        self._threads[thread_id] = value, size
        self._size += size - before
        while self._size > self._kept:
            _, (_, gone) = self._threads.popitem(last=False)
            self._size -= gone
