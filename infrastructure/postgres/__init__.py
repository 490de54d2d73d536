"""The stores on PostgreSQL: plain SQL through asyncpg, one statement and one round trip for each operation."""
