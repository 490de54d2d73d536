"""The access log in memory."""

from collections.abc import Sequence
from datetime import datetime
from heapq import nlargest

from domain.ids import Tenant
from domain.ports.access_log import Access, AccessCursor, AccessFilter, RecordedAccess


class MemoryAccessLog:
    """An `AccessLog` that ends with its process."""

    def __init__(self) -> None:
        self._kept: list[RecordedAccess] = []

    async def record(self, access: Access) -> None:
        self._kept.append(RecordedAccess(len(self._kept) + 1, access))

    async def page(
        self, tenant: Tenant, only: AccessFilter, before: AccessCursor | None, limit: int
    ) -> Sequence[RecordedAccess]:
        found = (
            kept
            for kept in self._kept
            if kept.access.tenant == tenant
            and (before is None or _place(kept) < (before.at, before.number))
            and _fits(kept.access, only)
        )
        return nlargest(limit, found, key=_place)


def _place(kept: RecordedAccess) -> tuple[datetime, int]:
    return kept.access.at, kept.number


def _fits(access: Access, only: AccessFilter) -> bool:
    return (
        (only.thread_id is None or only.thread_id in access.threads)
        and only.actor in {None, access.actor}
        and only.what in {None, access.what}
        and (only.since is None or access.at >= only.since)
        and (only.until is None or access.at < only.until)
    )
