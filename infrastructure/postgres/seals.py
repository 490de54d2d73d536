"""Seals in PostgreSQL."""

from collections.abc import Sequence

import asyncpg
from msgspec.structs import astuple

from domain.log.seal import Seal
from infrastructure.postgres.retry import Store
from infrastructure.postgres.statements import APPEND_SEAL, LAST_SEAL, SEAL, SEALS

MAX_NUMBER = 2**63 - 1
"""The highest number that the column takes."""


class PostgresSealStore(Store):
    """A `SealStore` in a migrated database. The caller that opened the pool closes it."""

    async def append(self, seal: Seal) -> bool:
        return bool(await self._fetch(APPEND_SEAL, *astuple(seal)))

    async def last(self) -> Seal | None:
        rows = await self._fetch(LAST_SEAL)
        return _seal(rows[0]) if rows else None

    async def get(self, number: int) -> Seal | None:
        rows = await self._fetch(SEAL, number) if number <= MAX_NUMBER else []
        return _seal(rows[0]) if rows else None

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        return [_seal(row) for row in await self._fetch(SEALS, min(after, MAX_NUMBER), limit)]


def _seal(row: asyncpg.Record) -> Seal:
    return Seal(**{**row, "sizes": tuple(row["sizes"])})
