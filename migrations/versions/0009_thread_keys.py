"""A third less room for the index of threads' events: a thread is eight bytes in it.

Where entries have 24 bytes or fewer, PostgreSQL splits a full page of a growing thread after its last entry, and leaves
it full; wider ones it splits in the middle, for ever half empty. Slice, UUID and version were 32. The UUID's hash, a
version and a slice are 24, and still there is one event of a version. See docs/decisions/0021.

Processes of the version before go on, but slowly, for they do not ask for the key, and take commands for causations:
restart them soon.
"""

import secrets

from alembic import op

revision = "0009"
down_revision = "0008"

KEY = """
    CREATE FUNCTION thread_key(thread uuid) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN uuid_hash_extended(thread, {seed})
"""
"""The seed is each database's secret. Clients choose threads' ids: nobody shall find two with the same key."""

STATEMENTS = (
    "COMMENT ON FUNCTION thread_key IS 'What a thread is in the index of its events'",
    "GRANT EXECUTE ON FUNCTION thread_key TO PUBLIC",  # also where that is not what functions have by themselves
    "COMMENT ON COLUMN events.causation IS 'The command, or causation, that the metadata began with'",
    "CREATE UNIQUE INDEX events_of_thread ON events (thread_key(thread_id), version, slice)",
    """
    ALTER TABLE events DROP CONSTRAINT events_pkey, DROP CONSTRAINT events_slice_position_key,
                       ADD PRIMARY KEY (slice, position)
    """,
    # Beside a state of more than two kB, which stays, PostgreSQL would move a hash of 32 bytes into the TOAST table.
    """
    ALTER TABLE snapshots ALTER COLUMN hash SET STORAGE MAIN, ALTER COLUMN tenant SET STORAGE MAIN,
                          ALTER COLUMN fingerprint SET STORAGE MAIN
    """,
)

VIEWS = """
    DO $$
    DECLARE
        statement text;
    BEGIN
        UPDATE read_models.instances
           SET shown = ARRAY(
                   SELECT replace(made, 'AND event.version = t.version)',
                                  'AND event.version = t.version '
                                  'AND public.thread_key(event.thread_id) = public.thread_key(t.thread_id))')
                     FROM unnest(shown) WITH ORDINALITY AS each (made, number)
                    ORDER BY number)
         WHERE projection = 'messages';
        FOR statement IN
            SELECT made
              FROM read_models.instances AS instance, unnest(shown) WITH ORDINALITY AS each (made, number)
             WHERE projection = 'messages' AND status = 'serving'
             ORDER BY number
        LOOP
            EXECUTE statement;
        END LOOP;
    END
    $$
"""
"""The report of messages takes their texts from the log."""


def upgrade() -> None:
    """Build both indexes anew. Nobody can append or read meanwhile: half a second for a million events."""
    for statement in (KEY.format(seed=secrets.randbits(63)), *STATEMENTS, VIEWS):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: the code from before does not read commands where they are now."""
    raise RuntimeError("Events' hashes cover commands that are in events.causation. Restore a backup from before.")
