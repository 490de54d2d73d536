"""Causation: what nearly all events' metadata say, in sixteen bytes.

A column with a constant default changes no row and no page: events from before have it as if it had been written.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    # Last, and aligned to single bytes, so that no row carries padding. A null would make each row's header longer.
    "ALTER TABLE events ADD COLUMN causation uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'",
    "COMMENT ON COLUMN events.metadata IS 'The hashed text; where causation is not zero, what is left without that'",
    "COMMENT ON COLUMN events.causation IS 'What the metadata began with: the command that set the agent to work'",
)


def upgrade() -> None:
    """Add the column."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: events' metadata are not whole without it."""
    raise RuntimeError("Events' hashes cover what is in events.causation. Restore a backup from before.")
