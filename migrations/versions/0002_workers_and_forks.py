"""Workers with their leases, threads that wait for a person, and forks."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    "ALTER TABLE threads ADD COLUMN base integer NOT NULL DEFAULT 0 CHECK (base >= 0)",
    "ALTER TABLE threads ADD COLUMN waiting boolean NOT NULL DEFAULT false",
    "COMMENT ON COLUMN threads.base IS 'Of a fork: the version that it begins after, which is its parent''s'",
    "COMMENT ON COLUMN threads.in_turn IS 'Whether there is something to run'",
    "COMMENT ON COLUMN threads.waiting IS 'Whether a turn cannot go on before a person decides'",
    """
    CREATE TABLE leases (
        epoch      bigint      NOT NULL DEFAULT 0,
        since      timestamptz,
        expires_at timestamptz,
        shard      smallint    NOT NULL,
        owner      uuid,
        purpose    text        NOT NULL,
        PRIMARY KEY (purpose, shard)
    ) WITH (fillfactor = 20)
    """,
    "COMMENT ON TABLE leases IS 'Which worker runs which 16 slices. Each new owner has a new epoch'",
    "INSERT INTO leases (purpose, shard) SELECT 'turns', generate_series(0, 63)",
    """
    CREATE TABLE workers (
        started_at timestamptz NOT NULL,
        seen_at    timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        id         uuid        NOT NULL PRIMARY KEY,
        standby    boolean     NOT NULL,
        name       text        NOT NULL
    ) WITH (fillfactor = 20)
    """,
    "COMMENT ON TABLE workers IS 'Processes that run turns'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON leases, workers TO threadfold_app",
)


def upgrade() -> None:
    """Add the columns and tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: forks would lose where they begin."""
    raise RuntimeError("Forks cannot be told without threads.base. Restore a backup from before.")
