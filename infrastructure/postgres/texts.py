"""Texts on PostgreSQL."""

from collections.abc import Collection, Mapping

from infrastructure.postgres.retry import Store

KEEP = """
INSERT INTO texts (name, text)
SELECT name, text FROM unnest($1::text[], $2::text[]) AS given (name, text)
    ON CONFLICT (name) DO NOTHING
"""

TEXTS = "SELECT name, text FROM texts WHERE name = ANY ($1::text[])"


class PostgresTextStore(Store):
    """A `TextStore` on a migrated database."""

    async def keep(self, texts: Mapping[str, str]) -> None:
        await self._fetch(KEEP, sorted(texts), [texts[name] for name in sorted(texts)])

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        return {row["name"]: row["text"] for row in await self._fetch(TEXTS, list(names))}
