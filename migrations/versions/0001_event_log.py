"""The event log: slices, threads, events, commands and snapshots.

Columns stand in the order of their alignment (eight bytes, four, two, one, then the variable ones), so that no row
carries padding. Every table has `slice` in its key, so that a cluster can distribute by it.
"""

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    """
    CREATE TABLE slices (
        head  bigint   NOT NULL DEFAULT 0 CHECK (head >= 0),
        slice smallint NOT NULL PRIMARY KEY
    ) WITH (fillfactor = 10)
    """,
    "COMMENT ON TABLE slices IS 'The last position that each slice gave out. Its row lock orders the commits'",
    "INSERT INTO slices (slice) SELECT generate_series(0, 1023)",
    """
    CREATE TABLE threads (
        opened_at timestamptz NOT NULL,
        at        timestamptz NOT NULL,
        version   integer     NOT NULL CHECK (version > 0),
        slice     smallint    NOT NULL,
        in_turn   boolean     NOT NULL,
        thread_id uuid        NOT NULL,
        hash      bytea       NOT NULL CHECK (octet_length(hash) = 32),
        tenant    text        NOT NULL,
        PRIMARY KEY (slice, thread_id)
    ) WITH (fillfactor = 60)
    """,
    "COMMENT ON TABLE threads IS 'Where each thread ends: the last event''s version, hash and time'",
    # For listing. Neither this index nor the next holds a column that each append changes: updates stay in their page.
    "CREATE INDEX threads_by_tenant ON threads (tenant, opened_at, thread_id)",
    "CREATE INDEX threads_in_turn ON threads (slice, thread_id) WHERE in_turn",
    """
    CREATE TABLE events (
        position    bigint      NOT NULL,
        recorded_at timestamptz NOT NULL,
        version     integer     NOT NULL,
        slice       smallint    NOT NULL,
        schema      smallint    NOT NULL,
        thread_id   uuid        NOT NULL,
        hash        bytea       NOT NULL,
        tenant      text        NOT NULL,
        type        text        NOT NULL,
        metadata    json        NOT NULL,
        payload     json        NOT NULL,
        PRIMARY KEY (slice, thread_id, version),
        UNIQUE (slice, position)
    )
    """,
    "COMMENT ON TABLE events IS 'The log. Rows are added, never changed'",
    # json keeps the text as it came; jsonb would rewrite it, and the hash covers the text.
    "COMMENT ON COLUMN events.payload IS 'The hashed text, byte by byte: type json, not jsonb'",
    """
    CREATE TABLE commands (
        at           timestamptz NOT NULL DEFAULT now(),
        slice        smallint    NOT NULL,
        command_id   uuid        NOT NULL,
        thread_id    uuid        NOT NULL,
        request_hash bytea       NOT NULL,
        tenant       text        NOT NULL,
        result       json        NOT NULL,
        PRIMARY KEY (slice, command_id)
    )
    """,
    "COMMENT ON TABLE commands IS 'Commands that were carried out, so that repeating one changes nothing'",
    """
    CREATE TABLE snapshots (
        at          timestamptz NOT NULL,
        version     integer     NOT NULL,
        slice       smallint    NOT NULL,
        thread_id   uuid        NOT NULL,
        hash        bytea       NOT NULL,
        tenant      text        NOT NULL,
        fingerprint text        NOT NULL,
        state       json        NOT NULL,
        PRIMARY KEY (slice, thread_id, version)
    )
    """,
    "COMMENT ON TABLE snapshots IS 'Checkpoints of the fold. Losing them costs time only'",
)

IMMUTABLE = (
    """
    CREATE FUNCTION refuse_to_change_events() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % was refused: the log is append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'An event is a fact that happened, and later hashes depend on it. '
                         'Append a new event that says what changed.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_events()
    """,
    # Otherwise whoever may set session_replication_role could walk around it.
    "ALTER TABLE events ENABLE ALWAYS TRIGGER append_only",
)

ROLE = """
    DO $$
    DECLARE
        may_act boolean;
        options text := '';
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'threadfold_app') THEN
            IF NOT (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                RAISE EXCEPTION 'The role threadfold_app is missing and % may not create it', current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = format('As an administrator: CREATE ROLE threadfold_app NOLOGIN; '
                                        'GRANT threadfold_app TO %I; then migrate again.', current_user);
            END IF;
            BEGIN
                CREATE ROLE threadfold_app NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- roles belong to the server: another database's migration was faster
            END;
        END IF;
        -- From PostgreSQL 16 on, who creates a role without being a superuser may administer it, and not act as it.
        IF current_setting('server_version_num')::integer >= 160000 THEN
            EXECUTE $member$
                SELECT pg_has_role(current_user, 'threadfold_app', 'SET')
                   AND pg_has_role(current_user, 'threadfold_app', 'USAGE')
            $member$ INTO may_act;
            options := ' WITH INHERIT TRUE, SET TRUE';
        ELSE
            may_act := pg_has_role(current_user, 'threadfold_app', 'MEMBER');
        END IF;
        IF NOT may_act THEN
            BEGIN
                EXECUTE format('GRANT threadfold_app TO %I' || options, current_user);
            EXCEPTION
                WHEN unique_violation OR internal_error THEN
                    NULL;  -- the same race; the second is "tuple concurrently updated"
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION '% may not act as the role threadfold_app', current_user
                        USING ERRCODE = 'insufficient_privilege',
                              HINT = format('As an administrator: GRANT threadfold_app TO %I%s; then migrate again.',
                                            current_user, options);
            END;
        END IF;
        IF NOT has_schema_privilege('threadfold_app', current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO threadfold_app', current_schema());
        END IF;
    END
    $$
"""

GRANTS = (
    "GRANT SELECT, INSERT ON events, commands TO threadfold_app",
    "GRANT SELECT, INSERT, UPDATE ON threads TO threadfold_app",
    "GRANT SELECT, UPDATE ON slices TO threadfold_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON snapshots TO threadfold_app",
    "GRANT SELECT ON alembic_version TO threadfold_app",
)


def upgrade() -> None:
    """Create the tables, make the log append-only, and let the application's role do no more than it needs."""
    for statement in (*TABLES, *IMMUTABLE, ROLE, *GRANTS):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: there is nothing before the log, and dropping it would lose every thread."""
    raise RuntimeError("The log is append-only. To lose it on purpose, drop the database.")
