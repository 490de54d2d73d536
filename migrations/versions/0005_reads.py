"""Reads: who was shown what of which threads."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE reads (
        at          timestamptz NOT NULL,
        id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
        tenant      text        NOT NULL,
        what        text        NOT NULL,
        request     text        NOT NULL,
        actor       text,
        client      text,
        correlation text,
        threads     uuid[]      NOT NULL CHECK (array_position(threads, NULL) IS NULL),
        PRIMARY KEY (tenant, at, id)
    )
    """,
    "COMMENT ON TABLE reads IS 'Who was shown what of which threads. Rows are added, never changed'",
    "COMMENT ON COLUMN reads.at IS 'Before it was shown'",
    "COMMENT ON COLUMN reads.what IS 'Such as messages or state; export is the whole log, and names no threads'",
    "COMMENT ON COLUMN reads.request IS 'A path with its parameters, or a command line; its beginning if it is long'",
    "COMMENT ON COLUMN reads.actor IS 'Who the caller says to be'",
    "COMMENT ON COLUMN reads.client IS 'The program that was used, as it names itself'",
    "COMMENT ON COLUMN reads.threads IS 'The threads that were shown; with a fork, those that it left'",
    # Callers are rarely named where no proxy names them: only rows with an actor are worth an entry.
    "CREATE INDEX reads_by_actor ON reads (tenant, actor, at, id) WHERE actor IS NOT NULL",
    "CREATE INDEX reads_by_kind ON reads (tenant, what, at, id)",
    # Each insert writes its own entries: somebody waits for it, and would wait long for a whole list of pending ones.
    "CREATE INDEX reads_of_thread ON reads USING gin (threads) WITH (fastupdate = off)",
    """
    CREATE FUNCTION refuse_to_change_reads() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % was refused: the audit of reads is append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'A row says that somebody was shown what a thread holds, and that stays so. '
                         'To record nothing from now on, set AUDIT_READS=false.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reads
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_reads()
    """,
    # Otherwise whoever may set session_replication_role could walk around it.
    "ALTER TABLE reads ENABLE ALWAYS TRIGGER append_only",
    "GRANT SELECT, INSERT ON reads TO threadfold_app",
)


def upgrade() -> None:
    """Create the table, and make it append-only."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: nothing else knows who has read what."""
    raise RuntimeError("The audit of reads is append-only, and cannot be built again from the log. Keep the table.")
