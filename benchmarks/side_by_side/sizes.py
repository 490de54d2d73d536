"""How much room tables take, with their indexes and what is stored beside them."""

import asyncpg

from benchmarks.side_by_side.figures import Figures


async def size_of(url: str, tables: str) -> Figures:
    """Sum up the tables whose names match a regular expression: `bytes` with indexes and TOAST, and `rows`."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(
            "SELECT c.oid::regclass::text AS name, pg_total_relation_size(c.oid) AS bytes FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND NOT c.relispartition"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.oid::regclass::text ~ $1",
            tables,
        )
        rows = [await connection.fetchval(f"SELECT count(*) FROM {table['name']}") for table in found]
    finally:
        await connection.close()
    return {"bytes": sum(table["bytes"] for table in found), "rows": sum(rows)}
