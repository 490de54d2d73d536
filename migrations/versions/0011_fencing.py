"""A fencing token for each thread, a table for write probes, and limits that are set at once by two processes.

No table is rewritten: a column with a constant default is there at once.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS = (
    "ALTER TABLE threads ADD COLUMN epoch bigint NOT NULL DEFAULT 0",
    """
    COMMENT ON COLUMN threads.epoch IS 'The highest epoch of its shard''s lease that a worker has written to it, or '
                                       'looked after it, under: appends under a lower one are refused'
    """,
    # A row for each process that lives: they are found without an index.
    """
    CREATE TABLE write_probes (
        at      timestamptz NOT NULL,
        process uuid        NOT NULL
    ) WITH (fillfactor = 20)
    """,
    "COMMENT ON TABLE write_probes IS 'Rows that processes write in order to see whether they can'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON write_probes TO threadfold_app",
)

SET = """
CREATE FUNCTION set_budget_limits(
    of_tenant text, of_agent text, of_model text, given jsonb, given_at timestamptz, given_by text, seeds jsonb,
    seen jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    before jsonb;
    setting bigint;
BEGIN
    -- Nothing is reserved of this tenant's limits meanwhile, and no others are set.
    PERFORM pg_advisory_xact_lock(hashtextextended(of_tenant, 6));
    SELECT limits INTO before
      FROM budget_limits AS last
     WHERE (last.tenant, last.agent, last.model) = (of_tenant, of_agent, of_model)
     ORDER BY last.number DESC
     LIMIT 1;
    before := coalesce(before, '[]');
    IF before = given THEN
        RETURN true;
    END IF;
    IF before <> seen THEN
        RETURN false;  -- the seeds are for other windows
    END IF;
    INSERT INTO budget_limits (tenant, agent, model, limits, set_at, actor)
    VALUES (of_tenant, of_agent, of_model, given, given_at, given_by)
    RETURNING number INTO setting;
    -- Others lock rows in this order, too.
    PERFORM FROM spending AS counted
      WHERE (counted.tenant, counted.agent, counted.model) = (of_tenant, of_agent, of_model)
      ORDER BY counted."window", counted.start
        FOR UPDATE;
    -- Where a limit had counted in this window before, and was lifted, the row is still there. Its figure may have
    -- missed calls since then, and the seed calls that are not in the read models yet: the greater one has missed less.
    -- What is reserved was so before a time in which nothing counted, and is no longer in the row. Without a seed, the
    -- row goes on as it is.
    UPDATE spending AS counted
       SET tokens = greatest(counted.tokens, seed.tokens), cost = greatest(counted.cost, seed.cost), since = setting,
           reserved_tokens = 0, reserved_cost = 0, warned = false
      FROM jsonb_to_recordset(seeds) AS seed ("window" text, start timestamptz, tokens bigint, cost bigint)
     WHERE (counted.tenant, counted.agent, counted.model) = (of_tenant, of_agent, of_model)
       AND (counted."window", counted.start) = (seed."window", seed.start)
       AND seed.tokens IS NOT NULL
       AND EXISTS (SELECT FROM jsonb_array_elements(given) AS one WHERE one.value ->> 'window' = seed."window")
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(before) AS one WHERE one.value ->> 'window' = seed."window");
    INSERT INTO spending AS counted (tenant, agent, model, "window", start, tokens, cost, since)
    SELECT of_tenant, of_agent, of_model, seed."window", seed.start, coalesce(seed.tokens, 0), coalesce(seed.cost, 0),
           setting
      FROM jsonb_to_recordset(seeds) AS seed ("window" text, start timestamptz, tokens bigint, cost bigint)
     WHERE EXISTS (SELECT FROM jsonb_array_elements(given) AS one WHERE one.value ->> 'window' = seed."window")
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(before) AS one WHERE one.value ->> 'window' = seed."window")
     ORDER BY seed."window"
        ON CONFLICT (tenant, agent, model, "window", start) DO NOTHING;
    -- Of another limit, a client is told again.
    UPDATE spending AS counted
       SET warned = false
     WHERE (counted.tenant, counted.agent, counted.model) = (of_tenant, of_agent, of_model)
       AND counted.warned
       AND NOT EXISTS (SELECT
                         FROM jsonb_array_elements(given) AS new, jsonb_array_elements(before) AS old
                        WHERE new.value = old.value AND new.value ->> 'window' = counted."window");
    RETURN true;
END
$$
"""

SET_AS_BEFORE = """
CREATE OR REPLACE FUNCTION set_budget_limits(
    of_tenant text, of_agent text, of_model text, given jsonb, given_at timestamptz, given_by text, seeds jsonb
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_budget_limits(of_tenant, of_agent, of_model, given, given_at, given_by, seeds, NULL);
END
$$
"""
"""For processes of the version before, which send zeros as seeds where they have none: these make nothing less."""


def upgrade() -> None:
    """Add the column, the table and the function."""
    for statement in (*STATEMENTS, SET, SET_AS_BEFORE):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: a worker that has lost its lease could append again."""
    raise RuntimeError("The code from before does not fence threads. Restore a backup from before.")
