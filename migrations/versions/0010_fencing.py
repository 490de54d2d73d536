"""A fencing token for each thread, and a table that processes write to in order to see whether they can.

Neither rewrites a table: a column with a constant default is there at once.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = (
    "ALTER TABLE threads ADD COLUMN epoch bigint NOT NULL DEFAULT 0",
    """
    COMMENT ON COLUMN threads.epoch IS 'The highest epoch of its shard''s lease that a worker has written to it, or '
                                       'looked after it, under: appends under a lower one are refused'
    """,
    """
    CREATE TABLE write_probes (
        at      timestamptz NOT NULL,
        process uuid        NOT NULL PRIMARY KEY
    ) WITH (fillfactor = 20)
    """,
    "COMMENT ON TABLE write_probes IS 'Rows that processes write in order to see whether they can'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON write_probes TO threadfold_app",
)


def upgrade() -> None:
    """Add the column and the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: a worker that has lost its lease could append again."""
    raise RuntimeError("The code from before does not fence threads. Restore a backup from before.")
