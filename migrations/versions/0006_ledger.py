"""The ledger: what tenants may spend, and what their calls of models have taken of it.

What has to be looked at and changed together is done by functions: each of their statements sees what was committed
before it began, and so what the one before has waited for.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = (
    """
    CREATE TABLE budget_limits (
        set_at timestamptz NOT NULL,
        number bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
        tenant text        NOT NULL,
        agent  text        NOT NULL,
        model  text        NOT NULL,
        actor  text,
        limits jsonb       NOT NULL CHECK (jsonb_typeof(limits) = 'array'),
        PRIMARY KEY (tenant, agent, model, number)
    )
    """,
    "COMMENT ON TABLE budget_limits IS 'What tenants may spend. The last row of a scope holds; rows are never changed'",
    "COMMENT ON COLUMN budget_limits.agent IS 'Whose calls are counted; empty: those of any agent'",
    "COMMENT ON COLUMN budget_limits.model IS 'Calls of which model are counted; empty: those of any'",
    "COMMENT ON COLUMN budget_limits.limits IS 'One for a window at most; none: they were lifted'",
    """
    CREATE FUNCTION refuse_to_change_limits() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % was refused: the history of limits is append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'To limit otherwise, or no more, set new limits: PUT /v1/limits.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON budget_limits
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_limits()
    """,
    "ALTER TABLE budget_limits ENABLE ALWAYS TRIGGER append_only",
    # Rows change with every call, and no index has what changes: most of a page is left for the next versions of one.
    """
    CREATE TABLE spending (
        start           timestamptz NOT NULL,
        tokens          bigint      NOT NULL DEFAULT 0 CHECK (tokens >= 0),
        cost            bigint      NOT NULL DEFAULT 0 CHECK (cost >= 0),
        reserved_tokens bigint      NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
        reserved_cost   bigint      NOT NULL DEFAULT 0 CHECK (reserved_cost >= 0),
        since           bigint      NOT NULL DEFAULT 0,
        warned          boolean     NOT NULL DEFAULT false,
        tenant          text        NOT NULL,
        agent           text        NOT NULL,
        model           text        NOT NULL,
        "window"        text        NOT NULL,
        PRIMARY KEY (tenant, agent, model, "window", start)
    ) WITH (fillfactor = 10)
    """,
    "COMMENT ON TABLE spending IS 'What was spent, and is reserved, of each limit in each of its windows'",
    "COMMENT ON COLUMN spending.cost IS 'In millionths of a millionth of a dollar'",
    "COMMENT ON COLUMN spending.since IS 'The setting that counting began with; 0: the window began under its limit'",
    "COMMENT ON COLUMN spending.warned IS 'Whether somebody was told that the share warn_at is spent'",
    """
    CREATE TABLE reservations (
        at        timestamptz NOT NULL,
        epoch     bigint,
        tokens    bigint      NOT NULL CHECK (tokens >= 0),
        cost      bigint      NOT NULL CHECK (cost >= 0),
        shard     smallint    NOT NULL,
        strained  boolean     NOT NULL,
        id        uuid        NOT NULL PRIMARY KEY,
        thread_id uuid        NOT NULL,
        tenant    text        NOT NULL,
        agent     text        NOT NULL,
        model     text        NOT NULL,
        taken     jsonb       NOT NULL
    )
    """,
    "COMMENT ON TABLE reservations IS 'The most that calls under way can take'",
    "COMMENT ON COLUMN reservations.epoch IS 'Of the lease of the thread''s shard that the call runs under'",
    "COMMENT ON COLUMN reservations.taken IS 'The rows of spending that have it, and since which setting they count'",
    # Whoever gets a shard asks what was left open in it.
    "CREATE INDEX reservations_of_shard ON reservations (shard)",
    "GRANT SELECT, INSERT ON budget_limits TO threadfold_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON spending, reservations TO threadfold_app",
)

HELPERS = (
    """
    CREATE FUNCTION limits_on(of_tenant text, of_agent text, of_model text)
    RETURNS TABLE (agent text, model text, "window" text, allowed jsonb) LANGUAGE sql STABLE AS $$
        SELECT scope.agent, scope.model, one.value ->> 'window', one.value
          FROM (SELECT DISTINCT any_agent.name, any_model.name
                  FROM unnest(ARRAY['', of_agent]) AS any_agent (name), unnest(ARRAY['', of_model]) AS any_model (name)
               ) AS scope (agent, model)
         CROSS JOIN LATERAL (SELECT limits
                               FROM budget_limits AS given
                              WHERE (given.tenant, given.agent, given.model) = (of_tenant, scope.agent, scope.model)
                              ORDER BY given.number DESC
                              LIMIT 1) AS last
         CROSS JOIN LATERAL jsonb_array_elements(last.limits) AS one
         WHERE one.value ->> 'window' <> 'turn'
    $$
    """,
    """
    COMMENT ON FUNCTION limits_on IS 'The limits that count the calls of an agent and a model. Those for turns are '
                                     'kept, and held against what each turn spends, elsewhere'
    """,
    """
    CREATE FUNCTION limit_holds(allowed jsonb, tokens numeric, cost numeric, share numeric DEFAULT 1)
    RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(tokens <= share * (allowed ->> 'tokens')::numeric, true)
           AND coalesce(cost <= share * (allowed ->> 'cost')::numeric, true)
    $$
    """,
    """
    CREATE FUNCTION limit_warns(allowed jsonb, tokens numeric, cost numeric)
    RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(tokens >= (allowed ->> 'warn_at')::numeric * (allowed ->> 'tokens')::numeric, false)
            OR coalesce(cost >= (allowed ->> 'warn_at')::numeric * (allowed ->> 'cost')::numeric, false)
    $$
    """,
    """
    CREATE FUNCTION standing_of(counted spending, allowed jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
        SELECT jsonb_build_object(
            'scope', jsonb_build_object('tenant', counted.tenant, 'agent', counted.agent, 'model', counted.model),
            'limit', allowed,
            'start', counted.start,
            'spent', jsonb_build_object('tokens', counted.tokens, 'cost', counted.cost),
            'reserved', jsonb_build_object('tokens', counted.reserved_tokens, 'cost', counted.reserved_cost)
        )
    $$
    """,
)

SET = """
CREATE FUNCTION set_budget_limits(
    of_tenant text, of_agent text, of_model text, given jsonb, given_at timestamptz, given_by text, seeds jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before jsonb;
    setting bigint;
BEGIN
    -- Nobody reserves of this tenant's limits meanwhile, or sets others.
    PERFORM pg_advisory_xact_lock(hashtextextended(of_tenant, 6));
    SELECT limits INTO before
      FROM budget_limits AS last
     WHERE (last.tenant, last.agent, last.model) = (of_tenant, of_agent, of_model)
     ORDER BY last.number DESC
     LIMIT 1;
    before := coalesce(before, '[]');
    IF before = given THEN
        RETURN;
    END IF;
    INSERT INTO budget_limits (tenant, agent, model, limits, set_at, actor)
    VALUES (of_tenant, of_agent, of_model, given, given_at, given_by)
    RETURNING number INTO setting;
    -- Others lock rows in this order, too.
    PERFORM FROM spending AS counted
      WHERE (counted.tenant, counted.agent, counted.model) = (of_tenant, of_agent, of_model)
      ORDER BY counted."window", counted.start
        FOR UPDATE;
    -- Where nothing has counted so far, or not lately, counting begins with the seed. What is reserved was so before a
    -- time in which nothing counted, and is in no row any more.
    INSERT INTO spending AS counted (tenant, agent, model, "window", start, tokens, cost, since)
    SELECT of_tenant, of_agent, of_model, seed."window", seed.start, seed.tokens, seed.cost, setting
      FROM jsonb_to_recordset(seeds) AS seed ("window" text, start timestamptz, tokens bigint, cost bigint)
     WHERE EXISTS (SELECT FROM jsonb_array_elements(given) AS one WHERE one.value ->> 'window' = seed."window")
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(before) AS one WHERE one.value ->> 'window' = seed."window")
     ORDER BY seed."window"
        ON CONFLICT (tenant, agent, model, "window", start) DO UPDATE
       SET tokens = excluded.tokens, cost = excluded.cost, since = excluded.since,
           reserved_tokens = 0, reserved_cost = 0, warned = false;
    -- Of another limit, somebody is told anew.
    UPDATE spending AS counted
       SET warned = false
     WHERE (counted.tenant, counted.agent, counted.model) = (of_tenant, of_agent, of_model)
       AND counted.warned
       AND NOT EXISTS (SELECT
                         FROM jsonb_array_elements(given) AS new, jsonb_array_elements(before) AS old
                        WHERE new.value = old.value AND new.value ->> 'window' = counted."window");
END
$$
"""

RESERVE = """
CREATE FUNCTION reserve_spending(asked jsonb)
RETURNS TABLE (number bigint, granted boolean, strained boolean, passing boolean, refusing jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    begun record;
    one record;
    found_strained boolean;
    verdict record;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(tenants.key)
       FROM (SELECT DISTINCT hashtextextended(value ->> 'tenant', 6) AS key
               FROM jsonb_array_elements(asked)
              ORDER BY key) AS tenants;

    FOR begun IN
        INSERT INTO spending (tenant, agent, model, "window", start)
        SELECT DISTINCT given.tenant, allowed.agent, allowed.model, allowed."window",
                        (given.starts ->> allowed."window")::timestamptz
          FROM jsonb_to_recordset(asked) AS given (tenant text, agent text, model text, starts jsonb)
         CROSS JOIN LATERAL limits_on(given.tenant, given.agent, given.model) AS allowed
         ORDER BY 1, 2, 3, 4, 5
            ON CONFLICT DO NOTHING
        RETURNING tenant, agent, model, "window", start
    LOOP
        CONTINUE WHEN begun."window" = 'lifetime';
        -- What came before goes, but the window just before this one: somebody's clock may be late.
        DELETE FROM spending AS gone
         USING (SELECT past.start
                  FROM spending AS past
                 WHERE (past.tenant, past.agent, past.model, past."window")
                     = (begun.tenant, begun.agent, begun.model, begun."window")
                   AND past.start < begun.start - ('1 ' || begun."window")::interval
                   AND past.reserved_tokens = 0
                   AND past.reserved_cost = 0
                   FOR UPDATE SKIP LOCKED) AS over
         WHERE (gone.tenant, gone.agent, gone.model, gone."window", gone.start)
             = (begun.tenant, begun.agent, begun.model, begun."window", over.start);
    END LOOP;

    -- In one order, so that nobody waits for somebody who waits for him.
    PERFORM FROM spending AS counted
       JOIN (SELECT DISTINCT given.tenant, allowed.agent, allowed.model, allowed."window",
                             (given.starts ->> allowed."window")::timestamptz AS start
               FROM jsonb_to_recordset(asked) AS given (tenant text, agent text, model text, starts jsonb)
              CROSS JOIN LATERAL limits_on(given.tenant, given.agent, given.model) AS allowed
            ) AS needed USING (tenant, agent, model, "window", start)
      ORDER BY counted.tenant, counted.agent, counted.model, counted."window", counted.start
        FOR UPDATE OF counted;

    FOR one IN
        SELECT place.number, given.*
          FROM jsonb_array_elements(asked) WITH ORDINALITY AS place (value, number)
         CROSS JOIN LATERAL jsonb_to_record(place.value) AS given (
               id uuid, tenant text, thread_id uuid, shard smallint, epoch bigint, agent text, model text,
               tokens bigint, cost bigint, at timestamptz, starts jsonb)
         ORDER BY place.number
    LOOP
        SELECT held.strained INTO found_strained FROM reservations AS held WHERE held.id = one.id;
        IF FOUND THEN
            RETURN QUERY SELECT one.number, true, found_strained, NULL::boolean, NULL::jsonb;
            CONTINUE;
        END IF;

        SELECT coalesce(bool_and(checked.holds), true) AS granted,
               coalesce(bool_or(checked.strained), false) AS strained,
               bool_and(checked.passing) FILTER (WHERE NOT checked.holds) AS passing,
               (array_agg(checked.standing ORDER BY checked.passing, checked.rank DESC)
                   FILTER (WHERE NOT checked.holds))[1] AS refusing,
               jsonb_agg(checked.taken) AS taken
          INTO verdict
          FROM (SELECT limit_holds(allowed.allowed,
                                   counted.tokens::numeric + counted.reserved_tokens + one.tokens,
                                   counted.cost::numeric + counted.reserved_cost + one.cost) AS holds,
                       limit_holds(allowed.allowed,
                                   counted.tokens::numeric + one.tokens,
                                   counted.cost::numeric + one.cost) AS passing,
                       NOT limit_holds(allowed.allowed,
                                       counted.tokens::numeric + counted.reserved_tokens + one.tokens,
                                       counted.cost::numeric + counted.reserved_cost + one.cost,
                                       (allowed.allowed ->> 'warn_at')::numeric) AS strained,
                       array_position(ARRAY['hour', 'day', 'month', 'lifetime'], allowed."window") AS rank,
                       standing_of(counted, allowed.allowed) AS standing,
                       jsonb_build_object('agent', counted.agent, 'model', counted.model, 'window', counted."window",
                                          'start', counted.start, 'since', counted.since) AS taken
                  FROM limits_on(one.tenant, one.agent, one.model) AS allowed
                  JOIN spending AS counted
                    ON (counted.tenant, counted.agent, counted.model, counted."window", counted.start)
                     = (one.tenant, allowed.agent, allowed.model, allowed."window",
                        (one.starts ->> allowed."window")::timestamptz)
               ) AS checked;

        RETURN QUERY SELECT one.number, verdict.granted, verdict.strained, verdict.passing, verdict.refusing;
        IF NOT verdict.granted OR verdict.taken IS NULL THEN
            CONTINUE;  -- refused, or nothing limits it
        END IF;
        INSERT INTO reservations (id, tenant, thread_id, shard, epoch, agent, model, tokens, cost, at, strained, taken)
        VALUES (one.id, one.tenant, one.thread_id, one.shard, one.epoch, one.agent, one.model, one.tokens, one.cost,
                one.at, verdict.strained, verdict.taken)
            ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            CONTINUE;  -- at this moment, by somebody else
        END IF;
        UPDATE spending AS counted
           SET reserved_tokens = counted.reserved_tokens + one.tokens,
               reserved_cost = counted.reserved_cost + one.cost
          FROM jsonb_to_recordset(verdict.taken) AS key (agent text, model text, "window" text, start timestamptz)
         WHERE (counted.tenant, counted.agent, counted.model, counted."window", counted.start)
             = (one.tenant, key.agent, key.model, key."window", key.start);
    END LOOP;
END
$$
"""

SETTLE = """
CREATE FUNCTION settle_spending(asked jsonb) RETURNS TABLE (number bigint, warning jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    one record;
    held reservations;
BEGIN
    PERFORM FROM reservations AS ended
      WHERE ended.id IN (SELECT (value ->> 'id')::uuid FROM jsonb_array_elements(asked))
      ORDER BY ended.id
        FOR UPDATE;

    PERFORM FROM spending AS counted
       JOIN (SELECT DISTINCT ended.tenant, key.*
               FROM jsonb_array_elements(asked) AS given
               JOIN reservations AS ended ON ended.id = (given.value ->> 'id')::uuid
              CROSS JOIN LATERAL jsonb_to_recordset(ended.taken)
                    AS key (agent text, model text, "window" text, start timestamptz)
            ) AS needed USING (tenant, agent, model, "window", start)
      ORDER BY counted.tenant, counted.agent, counted.model, counted."window", counted.start
        FOR UPDATE OF counted;

    FOR one IN
        SELECT place.number, given.*
          FROM jsonb_array_elements(asked) WITH ORDINALITY AS place (value, number)
         CROSS JOIN LATERAL jsonb_to_record(place.value) AS given (id uuid, tokens bigint, cost bigint, quietly boolean)
         ORDER BY place.number
    LOOP
        DELETE FROM reservations AS ended WHERE ended.id = one.id RETURNING * INTO held;
        IF NOT FOUND THEN
            CONTINUE;
        END IF;
        -- A row that counts anew since the reservation was made has nothing of it.
        UPDATE spending AS counted
           SET tokens = counted.tokens + coalesce(one.tokens, 0),
               cost = counted.cost + coalesce(one.cost, 0),
               reserved_tokens = counted.reserved_tokens - held.tokens,
               reserved_cost = counted.reserved_cost - held.cost
          FROM jsonb_to_recordset(held.taken)
               AS key (agent text, model text, "window" text, start timestamptz, since bigint)
         WHERE (counted.tenant, counted.agent, counted.model, counted."window", counted.start, counted.since)
             = (held.tenant, key.agent, key.model, key."window", key.start, key.since);
        CONTINUE WHEN one.quietly;
        RETURN QUERY
            UPDATE spending AS counted
               SET warned = true
              FROM jsonb_to_recordset(held.taken)
                   AS key (agent text, model text, "window" text, start timestamptz, since bigint)
              JOIN limits_on(held.tenant, held.agent, held.model) AS allowed USING (agent, model, "window")
             WHERE (counted.tenant, counted.agent, counted.model, counted."window", counted.start, counted.since)
                 = (held.tenant, key.agent, key.model, key."window", key.start, key.since)
               AND NOT counted.warned
               AND limit_warns(allowed.allowed, counted.tokens, counted.cost)
            RETURNING one.number, standing_of(counted, allowed.allowed);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    """Create the tables, and what keeps them exact."""
    for statement in (*TABLES, *HELPERS, SET, RESERVE, SETTLE):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: nothing else knows what tenants may spend."""
    raise RuntimeError("The history of limits is append-only, and cannot be built again from the log. Keep the tables.")
