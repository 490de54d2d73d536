"""Seals: signed roots of the whole log."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    CREATE TABLE seals (
        number     bigint      NOT NULL PRIMARY KEY CHECK (number > 0),
        at         timestamptz NOT NULL,
        root       bytea       NOT NULL CHECK (octet_length(root) = 32),
        previous   bytea       NOT NULL CHECK (octet_length(previous) = 32),
        public_key bytea       NOT NULL CHECK (octet_length(public_key) = 32),
        signature  bytea       NOT NULL CHECK (octet_length(signature) = 64),
        sizes      bigint[]    NOT NULL CHECK (cardinality(sizes) = 1024 AND array_position(sizes, NULL) IS NULL)
    )
    """,
    "COMMENT ON TABLE seals IS 'Signed roots of the whole log. Rows are added, never changed'",
    "COMMENT ON COLUMN seals.sizes IS 'How many events of each slice the seal covers, from slice 0 to 1023'",
    """
    CREATE FUNCTION refuse_to_change_seals() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % was refused: seals are append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'A seal says what the log held at an instant, and later seals depend on it. '
                         'threadfold seals make adds a new one.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seals
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_seals()
    """,
    # Otherwise whoever may set session_replication_role could walk around it.
    "ALTER TABLE seals ENABLE ALWAYS TRIGGER append_only",
    "GRANT SELECT, INSERT ON seals TO threadfold_app",
)


def upgrade() -> None:
    """Create the table, and make it append-only."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: what was sealed could not be proved any more."""
    raise RuntimeError("Seals are append-only, and a copy of them may be what proves the log. Keep the table.")
