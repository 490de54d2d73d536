"""Who stood how at an instant is found through an index, however many threads and spells there are."""

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from domain.ids import DEFAULT_TENANT, ThreadId
from infrastructure.postgres.read_models import queries
from infrastructure.postgres.read_models.store import PostgresReadModels
from projections import status_periods, threads
from tests.integration.test_query_plans import plan_of

AT = datetime(2026, 2, 1, tzinfo=UTC)
AFTER = AT, ThreadId(UUID(int=1))

FILL = """
INSERT INTO {spells} (since, until, version, slice, thread_id, tenant, status)
SELECT begun, CASE WHEN thread % 300 > 0 OR n < 100 THEN begun + interval '5 minutes' END, n, thread % 1024,
       lpad(to_hex(thread), 32, '0')::uuid, 'default', (ARRAY['running', 'waiting', 'over_budget'])[1 + thread % 3]
  FROM generate_series(1, 600) AS thread, generate_series(1, 100) AS n,
       LATERAL (SELECT '2026-01-01'::timestamptz + (n * 600 + thread) * interval '1 minute' AS begun) AS at;
INSERT INTO {threads} (opened_at, last_event_at, prompt_tokens, completion_tokens, tokens, cost, version, turns,
                       messages, slice, thread_id, tenant, graph, status, title)
SELECT '2026-01-01'::timestamptz + n * interval '1 minute', now(), 0, 0, 0, 0, 1, 0, 0, n % 1024,
       lpad(to_hex(n), 32, '0')::uuid, 'default', 'assistant', 'idle', ''
  FROM generate_series(1, 60000) AS n;
"""

LISTS = {
    "open": threads.opened_by(DEFAULT_TENANT, AT, None, 101),
    "open, going on": threads.opened_by(DEFAULT_TENANT, AT, AFTER, 101),
    "running": status_periods.at_instant(DEFAULT_TENANT, "running", AT, None, 101),
    "over budget": status_periods.at_instant(DEFAULT_TENANT, "over_budget", AT, None, 101),
    "over budget, going on": status_periods.at_instant(DEFAULT_TENANT, "over_budget", AT, AFTER, 101),
    "in a turn": status_periods.open_turns(AT, None, 101),
    "in a turn, going on": status_periods.open_turns(AT, AFTER, 101),
}


@pytest.fixture(params=["empty", "filled", "analysed"])
async def filled(request: pytest.FixtureRequest, owner: asyncpg.Connection, pool: asyncpg.Pool) -> asyncpg.Connection:
    """Give tables with nothing in them, and with 60,000 rows that the planner knows nothing, or something, about."""
    models = PostgresReadModels(pool)
    await models.register([status_periods.PROJECTION.shape, threads.PROJECTION.shape])
    names = {f"{i.projection}": f"read_models.{i.projection}_{i.id}" for i in await models.instances()}
    if request.param != "empty":
        await owner.execute(FILL.format(**names))
    if request.param == "analysed":
        await owner.execute("ANALYZE")
    return owner


async def test_no_list_of_an_instant_reads_a_whole_table(filled: asyncpg.Connection) -> None:
    for name, (statement, _) in {name: queries.select(asked) for name, asked in LISTS.items()}.items():
        plan = await plan_of(filled, statement)
        assert [node for node in plan if node["Node Type"] == "Seq Scan"] == [], name
        used = {str(node["Index Name"]) for node in plan if "Index Name" in node}
        wanted = "tenant_opened_at_thread_id_idx" if name.startswith("open") else "tstzrange_idx"
        assert [index for index in used if not index.endswith(wanted)] == [], name
        if name.startswith("open"):
            assert [node["Node Type"] for node in plan if "Sort" in node["Node Type"]] == [], "the index has the order"
