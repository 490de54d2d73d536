"""Read models: which there are, how far each line has come, and what is parked.

Their tables are made when they begin to be built.

Nobody loses an event by losing all of this: it is built again from the log.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    "CREATE SCHEMA read_models AUTHORIZATION threadfold_app",
    "COMMENT ON SCHEMA read_models IS 'What the projections make of the log, and views of those that serve'",
    "CREATE SCHEMA analytics AUTHORIZATION threadfold_app",
    "COMMENT ON SCHEMA analytics IS 'Views of the read models whose columns are kept stable: for reports'",
    """
    CREATE TABLE read_models.lines (
        started_at   timestamptz NOT NULL DEFAULT now(),
        paused_until timestamptz,
        id           integer     NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        throttle     integer     CHECK (throttle > 0)
    )
    """,
    "COMMENT ON TABLE read_models.lines IS 'Instances that go through the log together'",
    """
    CREATE TABLE read_models.positions (
        position bigint   NOT NULL DEFAULT 0,
        line     integer  NOT NULL REFERENCES read_models.lines ON DELETE CASCADE,
        slice    smallint NOT NULL,
        PRIMARY KEY (line, slice)
    ) WITH (fillfactor = 20)
    """,
    "COMMENT ON TABLE read_models.positions IS 'Up to where each line has read each slice'",
    """
    CREATE TABLE read_models.instances (
        created_at timestamptz NOT NULL DEFAULT now(),
        served_at  timestamptz,
        id         integer     NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        version    integer     NOT NULL,
        line       integer     NOT NULL REFERENCES read_models.lines,
        projection text        NOT NULL,
        status     text        NOT NULL CHECK (status IN ('building', 'serving', 'kept')),
        tables     text[]      NOT NULL,
        shown      text[]      NOT NULL DEFAULT '{}'
    )
    """,
    "COMMENT ON COLUMN read_models.instances.shown IS 'The statements that make its views, once it serves'",
    "COMMENT ON TABLE read_models.instances IS 'Fillings of the projections'' tables; one of each projection serves'",
    "CREATE UNIQUE INDEX one_serves ON read_models.instances (projection) WHERE status = 'serving'",
    "CREATE UNIQUE INDEX one_is_built ON read_models.instances (projection) WHERE status = 'building'",
    """
    CREATE TABLE read_models.parked (
        position  bigint      NOT NULL,
        at        timestamptz NOT NULL,
        instance  integer     NOT NULL REFERENCES read_models.instances ON DELETE CASCADE,
        version   integer     NOT NULL,
        attempts  integer     NOT NULL,
        slice     smallint    NOT NULL,
        thread_id uuid        NOT NULL,
        type      text        NOT NULL,
        error     text        NOT NULL,
        PRIMARY KEY (slice, thread_id, instance)
    )
    """,
    "COMMENT ON TABLE read_models.parked IS 'Threads that an instance leaves out, from an event on'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA read_models TO threadfold_app",
)

READER = """
    DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'threadfold_reader') THEN
            CREATE ROLE threadfold_reader NOLOGIN;
        END IF;
        GRANT USAGE ON SCHEMA analytics TO threadfold_reader;
        ALTER DEFAULT PRIVILEGES FOR ROLE threadfold_app IN SCHEMA analytics
              GRANT SELECT ON TABLES TO threadfold_reader;
    EXCEPTION
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'The role threadfold_reader was not made. docs/read-models.md says how to.';
        WHEN duplicate_object OR unique_violation OR internal_error THEN
            RAISE NOTICE 'Another migration makes threadfold_reader just now. docs/read-models.md says how to.';
    END
    $$
"""
"""A role for reports. It belongs to the server, where somebody else may have to make it."""


def upgrade() -> None:
    """Make the schemas and tables, and a role that may look at the analytics and at nothing else."""
    for statement in (*STATEMENTS, READER):
        op.execute(statement)


def downgrade() -> None:
    """Drop all read models: a newer Threadfold builds them again from the log."""
    op.execute("DROP SCHEMA analytics CASCADE")
    op.execute("DROP SCHEMA read_models CASCADE")
