"""Texts: instructions and tools' descriptions, as models saw them, each kept once."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    """
    CREATE TABLE texts (
        name text PRIMARY KEY,
        text text NOT NULL
    )
    """,
    "COMMENT ON TABLE texts IS 'Instructions and tools as models saw them; each is named by its digest'",
    "COMMENT ON COLUMN texts.name IS 'The first 16 bytes of the SHA-256 of the text, in URL-safe base64'",
    """
    CREATE FUNCTION refuse_to_change_texts() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % was refused: a text is named by what it says', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Events refer to texts by their names, which stay true only if the texts do.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON texts
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_texts()
    """,
    "ALTER TABLE texts ENABLE ALWAYS TRIGGER append_only",
    "GRANT SELECT, INSERT ON texts TO threadfold_app",
)


def upgrade() -> None:
    """Create the table, and make it append-only."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: events refer to these texts, and nothing else knows them."""
    raise RuntimeError("Events refer to these texts, and they cannot be built again from the log. Keep the table.")
