"""Less room: what nearly all events' metadata say takes sixteen bytes, and snapshots stay in their table.

Neither changes a row or a page. A column with a constant default is there for events from before as if it had been
written, and how a column is stored counts for what comes.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    # Last, and aligned to single bytes, so that no row carries padding. A null would make each row's header longer.
    "ALTER TABLE events ADD COLUMN causation uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'",
    "COMMENT ON COLUMN events.metadata IS 'The hashed text; where causation is not zero, what is left without that'",
    "COMMENT ON COLUMN events.causation IS 'What the metadata began with: the command that set the agent to work'",
    # A compressed state has about 2 kB, which is where PostgreSQL would move it into a TOAST table with an index.
    "ALTER TABLE snapshots ALTER COLUMN state SET STORAGE MAIN",
)


def upgrade() -> None:
    """Add the column, and keep states in line."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: events' metadata are not whole without it."""
    raise RuntimeError("Events' hashes cover what is in events.causation. Restore a backup from before.")
