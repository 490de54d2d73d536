"""Tenants and API keys, and the verified principal of each access."""

from alembic import op

revision = "0013"
down_revision = "0012"

STATEMENTS = (
    """
    CREATE TABLE tenants (
        name         text        COLLATE "C" NOT NULL PRIMARY KEY,
        created_at   timestamptz NOT NULL DEFAULT now(),
        created_by   text,
        suspended_at timestamptz,
        changed_at   timestamptz NOT NULL DEFAULT now()
    )
    """,
    "COMMENT ON TABLE tenants IS 'Customers of this instance. Rows are never removed'",
    "COMMENT ON COLUMN tenants.suspended_at IS 'Since when all keys and tokens of the tenant are refused'",
    "CREATE INDEX tenants_by_change ON tenants (changed_at)",
    "INSERT INTO tenants (name) VALUES ('default')",
    """
    CREATE TABLE api_keys (
        id           text        COLLATE "C" NOT NULL PRIMARY KEY,
        digest       bytea       NOT NULL,
        tenant       text        COLLATE "C" NOT NULL REFERENCES tenants (name),
        principal    text        NOT NULL,
        name         text        NOT NULL,
        scopes       text[]      NOT NULL,
        created_at   timestamptz NOT NULL,
        created_by   text,
        expires_at   timestamptz,
        revoked_at   timestamptz,
        last_used_at timestamptz,
        replaces     text,
        changed_at   timestamptz NOT NULL DEFAULT now()
    )
    """,
    "COMMENT ON TABLE api_keys IS 'API keys. Rows are never removed: the audit names their principals'",
    "COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key, whose secret is not stored'",
    "COMMENT ON COLUMN api_keys.changed_at IS 'When the row was made or its end was set; not when the key was used'",
    "CREATE INDEX api_keys_of_tenant ON api_keys (tenant, id)",
    "CREATE INDEX api_keys_by_change ON api_keys (changed_at)",
    "GRANT SELECT, INSERT ON tenants, api_keys TO threadfold_app",
    "GRANT UPDATE (suspended_at, changed_at) ON tenants TO threadfold_app",
    "GRANT UPDATE (expires_at, revoked_at, last_used_at, changed_at) ON api_keys TO threadfold_app",
    "ALTER TABLE reads ADD COLUMN principal text",
    "COMMENT ON COLUMN reads.principal IS 'The verified name of the caller; NULL without authentication'",
    "COMMENT ON COLUMN reads.actor IS 'The person whom the caller says to act for; without one, the principal'",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: without the keys, an instance would be open to all callers."""
    raise RuntimeError("API keys cannot be made again from the log. Keep the tables.")
