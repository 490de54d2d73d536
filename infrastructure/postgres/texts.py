"""Texts on PostgreSQL."""

from collections.abc import Collection, Mapping

import asyncpg

from infrastructure.postgres.retry import fetch

KEEP = """
INSERT INTO texts (name, text)
SELECT name, text FROM unnest($1::text[], $2::text[]) AS given (name, text)
    ON CONFLICT (name) DO NOTHING
"""

TEXTS = "SELECT name, text FROM texts WHERE name = ANY ($1::text[])"


class PostgresTextStore:
    """A `TextStore` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def keep(self, texts: Mapping[str, str]) -> None:
        await fetch(self._pool, KEEP, sorted(texts), [texts[name] for name in sorted(texts)])

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        return {row["name"]: row["text"] for row in await fetch(self._pool, TEXTS, list(names))}
