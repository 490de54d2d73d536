"""Limits of subjects: the customers that threads are about.

The ledger's keys begin with the tenant and the subject, so that a call finds the limits that count it among those of
many customers. `''` stands for calls about any subject, as it does for agents and models. No table is rewritten.

Processes of the version before go on: they send no subject, and set limits by the function that they know.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

TABLES = (
    "ALTER TABLE budget_limits ADD COLUMN subject text NOT NULL DEFAULT ''",
    "COMMENT ON COLUMN budget_limits.subject IS 'The customer whose threads are counted; empty: those of any'",
    """
    ALTER TABLE budget_limits DROP CONSTRAINT budget_limits_pkey,
                              ADD PRIMARY KEY (tenant, subject, agent, model, number)
    """,
    "ALTER TABLE spending ADD COLUMN subject text NOT NULL DEFAULT ''",
    """
    ALTER TABLE spending DROP CONSTRAINT spending_pkey,
                         ADD PRIMARY KEY (tenant, subject, agent, model, "window", start)
    """,
    "ALTER TABLE reservations ADD COLUMN subject text NOT NULL DEFAULT ''",
)

HELPERS = (
    "DROP FUNCTION limits_on(text, text, text)",
    """
    CREATE FUNCTION limits_on(of_tenant text, of_subject text, of_agent text, of_model text)
    RETURNS TABLE (subject text, agent text, model text, "window" text, allowed jsonb) LANGUAGE sql STABLE AS $$
        SELECT scope.subject, scope.agent, scope.model, one.value ->> 'window', one.value
          FROM (SELECT DISTINCT any_subject.name, any_agent.name, any_model.name
                  FROM unnest(ARRAY['', of_subject]) AS any_subject (name),
                       unnest(ARRAY['', of_agent]) AS any_agent (name),
                       unnest(ARRAY['', of_model]) AS any_model (name)
               ) AS scope (subject, agent, model)
         CROSS JOIN LATERAL (SELECT limits
                               FROM budget_limits AS given
                              WHERE (given.tenant, given.subject, given.agent, given.model)
                                  = (of_tenant, scope.subject, scope.agent, scope.model)
                              ORDER BY given.number DESC
                              LIMIT 1) AS last
         CROSS JOIN LATERAL jsonb_array_elements(last.limits) AS one
         WHERE one.value ->> 'window' <> 'turn'
    $$
    """,
    """
    COMMENT ON FUNCTION limits_on IS 'The limits that count the calls of an agent and a model in threads about a '
                                     'subject. Limits for turns are checked by the process that runs the turn'
    """,
    """
    CREATE OR REPLACE FUNCTION standing_of(counted spending, allowed jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
        SELECT jsonb_build_object(
            'scope', jsonb_build_object('tenant', counted.tenant, 'agent', counted.agent, 'model', counted.model,
                                        'subject', counted.subject),
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
    of_tenant text, of_subject text, of_agent text, of_model text, given jsonb, given_at timestamptz, given_by text,
    seeds jsonb, seen jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    before jsonb;
    setting bigint;
BEGIN
    -- Nothing is reserved of this tenant's limits meanwhile, and no others are set.
    PERFORM pg_advisory_xact_lock(hashtextextended(of_tenant, 6));
    SELECT limits INTO before
      FROM budget_limits AS last
     WHERE (last.tenant, last.subject, last.agent, last.model) = (of_tenant, of_subject, of_agent, of_model)
     ORDER BY last.number DESC
     LIMIT 1;
    before := coalesce(before, '[]');
    IF before = given THEN
        RETURN true;
    END IF;
    IF before <> seen THEN
        RETURN false;  -- the seeds are for other windows
    END IF;
    INSERT INTO budget_limits (tenant, subject, agent, model, limits, set_at, actor)
    VALUES (of_tenant, of_subject, of_agent, of_model, given, given_at, given_by)
    RETURNING number INTO setting;
    -- Others lock rows in this order, too.
    PERFORM FROM spending AS counted
      WHERE (counted.tenant, counted.subject, counted.agent, counted.model)
         = (of_tenant, of_subject, of_agent, of_model)
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
     WHERE (counted.tenant, counted.subject, counted.agent, counted.model)
         = (of_tenant, of_subject, of_agent, of_model)
       AND (counted."window", counted.start) = (seed."window", seed.start)
       AND seed.tokens IS NOT NULL
       AND EXISTS (SELECT FROM jsonb_array_elements(given) AS one WHERE one.value ->> 'window' = seed."window")
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(before) AS one WHERE one.value ->> 'window' = seed."window");
    INSERT INTO spending AS counted (tenant, subject, agent, model, "window", start, tokens, cost, since)
    SELECT of_tenant, of_subject, of_agent, of_model, seed."window", seed.start, coalesce(seed.tokens, 0),
           coalesce(seed.cost, 0), setting
      FROM jsonb_to_recordset(seeds) AS seed ("window" text, start timestamptz, tokens bigint, cost bigint)
     WHERE EXISTS (SELECT FROM jsonb_array_elements(given) AS one WHERE one.value ->> 'window' = seed."window")
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(before) AS one WHERE one.value ->> 'window' = seed."window")
     ORDER BY seed."window"
        ON CONFLICT (tenant, subject, agent, model, "window", start) DO NOTHING;
    -- Of another limit, a client is told again.
    UPDATE spending AS counted
       SET warned = false
     WHERE (counted.tenant, counted.subject, counted.agent, counted.model)
         = (of_tenant, of_subject, of_agent, of_model)
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
    of_tenant text, of_agent text, of_model text, given jsonb, given_at timestamptz, given_by text, seeds jsonb,
    seen jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN set_budget_limits(of_tenant, '', of_agent, of_model, given, given_at, given_by, seeds, seen);
END
$$
"""
"""For processes of the version before."""

RESERVE = """
CREATE OR REPLACE FUNCTION reserve_spending(asked jsonb)
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
        INSERT INTO spending (tenant, subject, agent, model, "window", start)
        SELECT DISTINCT given.tenant, allowed.subject, allowed.agent, allowed.model, allowed."window",
                        (given.starts ->> allowed."window")::timestamptz
          FROM jsonb_to_recordset(asked) AS given (tenant text, subject text, agent text, model text, starts jsonb)
         CROSS JOIN LATERAL limits_on(given.tenant, coalesce(given.subject, ''), given.agent, given.model) AS allowed
         ORDER BY 1, 2, 3, 4, 5, 6
            ON CONFLICT DO NOTHING
        RETURNING tenant, subject, agent, model, "window", start
    LOOP
        CONTINUE WHEN begun."window" = 'lifetime';
        -- Windows before the last one are deleted: a process's clock may be late.
        DELETE FROM spending AS gone
         USING (SELECT past.start
                  FROM spending AS past
                 WHERE (past.tenant, past.subject, past.agent, past.model, past."window")
                     = (begun.tenant, begun.subject, begun.agent, begun.model, begun."window")
                   AND past.start < begun.start - ('1 ' || begun."window")::interval
                   AND past.reserved_tokens = 0
                   AND past.reserved_cost = 0
                   FOR UPDATE SKIP LOCKED) AS over
         WHERE (gone.tenant, gone.subject, gone.agent, gone.model, gone."window", gone.start)
             = (begun.tenant, begun.subject, begun.agent, begun.model, begun."window", over.start);
    END LOOP;

    -- All transactions lock rows in this order, so that there is no deadlock.
    PERFORM FROM spending AS counted
       JOIN (SELECT DISTINCT given.tenant, allowed.subject, allowed.agent, allowed.model, allowed."window",
                             (given.starts ->> allowed."window")::timestamptz AS start
               FROM jsonb_to_recordset(asked)
                    AS given (tenant text, subject text, agent text, model text, starts jsonb)
              CROSS JOIN LATERAL limits_on(given.tenant, coalesce(given.subject, ''), given.agent, given.model)
                      AS allowed
            ) AS needed USING (tenant, subject, agent, model, "window", start)
      ORDER BY counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start
        FOR UPDATE OF counted;

    FOR one IN
        SELECT place.number, given.*
          FROM jsonb_array_elements(asked) WITH ORDINALITY AS place (value, number)
         CROSS JOIN LATERAL jsonb_to_record(place.value) AS given (
               id uuid, tenant text, thread_id uuid, shard smallint, epoch bigint, subject text, agent text, model text,
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
                       jsonb_build_object('subject', counted.subject, 'agent', counted.agent, 'model', counted.model,
                                          'window', counted."window", 'start', counted.start,
                                          'since', counted.since) AS taken
                  FROM limits_on(one.tenant, coalesce(one.subject, ''), one.agent, one.model) AS allowed
                  JOIN spending AS counted
                    ON (counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start)
                     = (one.tenant, allowed.subject, allowed.agent, allowed.model, allowed."window",
                        (one.starts ->> allowed."window")::timestamptz)
               ) AS checked;

        RETURN QUERY SELECT one.number, verdict.granted, verdict.strained, verdict.passing, verdict.refusing;
        IF NOT verdict.granted OR verdict.taken IS NULL THEN
            CONTINUE;  -- refused, or nothing limits it
        END IF;
        INSERT INTO reservations (id, tenant, thread_id, shard, epoch, subject, agent, model, tokens, cost, at,
                                  strained, taken)
        VALUES (one.id, one.tenant, one.thread_id, one.shard, one.epoch, coalesce(one.subject, ''), one.agent,
                one.model, one.tokens, one.cost, one.at, verdict.strained, verdict.taken)
            ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            CONTINUE;  -- another transaction reserves it at this moment
        END IF;
        UPDATE spending AS counted
           SET reserved_tokens = counted.reserved_tokens + one.tokens,
               reserved_cost = counted.reserved_cost + one.cost
          FROM jsonb_to_recordset(verdict.taken)
               AS key (subject text, agent text, model text, "window" text, start timestamptz)
         WHERE (counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start)
             = (one.tenant, key.subject, key.agent, key.model, key."window", key.start);
    END LOOP;
END
$$
"""

SETTLE = """
CREATE OR REPLACE FUNCTION settle_spending(asked jsonb)
RETURNS TABLE (number bigint, warning jsonb) LANGUAGE plpgsql AS $$
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
       JOIN (SELECT DISTINCT ended.tenant, coalesce(key.subject, '') AS subject, key.agent, key.model, key."window",
                             key.start
               FROM jsonb_array_elements(asked) AS given
               JOIN reservations AS ended ON ended.id = (given.value ->> 'id')::uuid
              CROSS JOIN LATERAL jsonb_to_recordset(ended.taken)
                    AS key (subject text, agent text, model text, "window" text, start timestamptz)
            ) AS needed USING (tenant, subject, agent, model, "window", start)
      ORDER BY counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start
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
        -- A row that began to count again since the reservation was made has nothing of it.
        UPDATE spending AS counted
           SET tokens = counted.tokens + coalesce(one.tokens, 0),
               cost = counted.cost + coalesce(one.cost, 0),
               reserved_tokens = counted.reserved_tokens - held.tokens,
               reserved_cost = counted.reserved_cost - held.cost
          FROM jsonb_to_recordset(held.taken)
               AS key (subject text, agent text, model text, "window" text, start timestamptz, since bigint)
         WHERE (counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start,
                counted.since)
             = (held.tenant, coalesce(key.subject, ''), key.agent, key.model, key."window", key.start, key.since);
        CONTINUE WHEN one.quietly;
        RETURN QUERY
            UPDATE spending AS counted
               SET warned = true
              FROM jsonb_to_recordset(held.taken)
                   AS key (subject text, agent text, model text, "window" text, start timestamptz, since bigint)
              JOIN limits_on(held.tenant, held.subject, held.agent, held.model) AS allowed
                ON (allowed.subject, allowed.agent, allowed.model, allowed."window")
                 = (coalesce(key.subject, ''), key.agent, key.model, key."window")
             WHERE (counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start,
                    counted.since)
                 = (held.tenant, coalesce(key.subject, ''), key.agent, key.model, key."window", key.start, key.since)
               AND NOT counted.warned
               AND limit_warns(allowed.allowed, counted.tokens, counted.cost)
            RETURNING one.number, standing_of(counted, allowed.allowed);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    """Add the column, and replace the functions."""
    for statement in (*TABLES, *HELPERS, SET, SET_AS_BEFORE, RESERVE, SETTLE):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: the code from before would take limits of subjects for limits of the whole tenant."""
    raise RuntimeError("The code from before does not know limits of subjects. Restore a backup from before.")
