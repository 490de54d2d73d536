"""Turns that may have ended their process, agents that a worker knows, and turns that are lent to other workers."""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = (
    """
    CREATE TABLE suspects (
        crashes   integer  NOT NULL DEFAULT 0,
        alone     integer  NOT NULL DEFAULT 0,
        version   integer  NOT NULL,
        slice     smallint NOT NULL,
        thread_id uuid     NOT NULL,
        PRIMARY KEY (slice, thread_id)
    )
    """,
    "COMMENT ON TABLE suspects IS 'Threads with a turn that could run in a process that crashed, until it ends'",
    "COMMENT ON COLUMN suspects.crashes IS 'Crashes of processes that ran other turns as well'",
    "COMMENT ON COLUMN suspects.alone IS 'Crashes of processes that ran nothing else'",
    "COMMENT ON COLUMN suspects.version IS 'Where the thread ended at the last crash: later turns are not to blame'",
    """
    CREATE TABLE loans (
        epoch     bigint   NOT NULL,
        slice     smallint NOT NULL,
        shard     smallint NOT NULL,
        thread_id uuid     NOT NULL,
        worker    uuid     NOT NULL,
        tenant    text     NOT NULL,
        PRIMARY KEY (slice, thread_id)
    )
    """,
    "CREATE INDEX loans_by_worker ON loans (worker)",
    "COMMENT ON TABLE loans IS 'Threads whose turns another worker than the owner of their shard runs'",
    "ALTER TABLE workers ADD COLUMN agents text[] NOT NULL DEFAULT '{}'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON suspects, loans TO threadfold_app",
)


def upgrade() -> None:
    """Add the tables and the column."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop them: what they hold matters for a moment only."""
    for table in ("suspects", "loans"):
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE workers DROP COLUMN agents")
