"""How much room tables take, with their indexes and what is stored beside them."""

import asyncpg

from benchmarks.side_by_side.figures import Figures

TABLES = """
SELECT c.oid::regclass::text AS name, pg_total_relation_size(c.oid) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.oid::regclass::text ~ $1
"""
"""All tables whose names match a regular expression, with their TOAST and indexes."""

VACUUMS = "SELECT coalesce(sum(autovacuum_count), 0) FROM pg_stat_user_tables"


async def size_of(url: str, tables: str) -> Figures:
    """Sum up the tables whose names match a regular expression: `bytes` with indexes and TOAST, and `rows`."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(TABLES, tables)
        rows = [await connection.fetchval(f"SELECT count(*) FROM {table['name']}") for table in found]
    finally:
        await connection.close()
    return {"bytes": sum(table["bytes"] for table in found), "rows": sum(rows)}


async def checkpoint(url: str) -> int:
    """Have PostgreSQL write everything to its files; return how often it has vacuumed a table of ours by itself."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CHECKPOINT")
        return int(await connection.fetchval(VACUUMS))
    finally:
        await connection.close()
