"""What the API asks of read models costs what it shows, not what is there: each documented query, and its plan."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from domain.ports.read_models import InstanceId
from domain.read_models.tables import Column, Table
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.read_models.tables import place
from projections.registry import PROJECTIONS
from tests.integration.test_query_plans import nodes
from tests.support.http import Api, running_api

ROWS = 20_000
"""Rows of each read model, of ten tenants in turn. The caller is one of them."""

PAGE = 110
"""Rows that a page of 50, or a search for what a hundred rows have, may look at."""

DAY = 30
"""Rows that a sum over a day may look at: the tenant has 24, all together have 240."""

THREAD = "00000000-0000-4000-8000-000000000050"
PAGES = (
    "/v1/threads",
    "/v1/threads?sort=last_event_at&order=asc",
    "/v1/threads?sort=cost",
    "/v1/threads?sort=tokens&limit=20",
    "/v1/threads?status=running,waiting",
    "/v1/threads?outcome=failed",
    "/v1/threads?outcome=failed,cancelled&reason=empty_answer",
    "/v1/threads?reason=content_filter,length",
    "/v1/threads?search=word77",
    "/v1/instant?at=2026-11-01T12:00:00Z",
    "/v1/audit",
    "/v1/audit?actor=actor 50",
    "/v1/audit?correlation=correlation 50",
    f"/v1/audit?thread_id={THREAD}",
    f"/v1/audit?command={THREAD}",
    "/v1/turns",
    "/v1/turns?order=asc",
    "/v1/turns?sort=cost",
    "/v1/turns?sort=duration_ms&order=asc",
    "/v1/turns?outcome=failed",
    "/v1/turns?outcome=queued,running,waiting",
    "/v1/turns?reason=empty_answer,content_filter",
    "/v1/turns?graph=graph 50",
    "/v1/turns?tool=tool 50,tool 60",
    "/v1/turns?outcome=failed&tool=tool 500",
    "/v1/turns?min_cost_usd=1.95e-8",
    "/v1/turns?max_cost_usd=5e-10",
    "/v1/turns?min_duration_ms=19500",
    "/v1/turns?max_duration_ms=500",
    "/v1/turns?created_since=2026-09-01T00:00:00Z&created_before=2026-09-02T00:00:00Z",
    f"/v1/threads/{THREAD}/turns",
)
SUMS = (
    "/v1/usage?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&group_by=model",
    "/v1/usage?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&bucket=hour",
    "/v1/analytics/nodes?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&bucket=hour&group_by=node",
    "/v1/analytics/tools?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&group_by=tool",
    "/v1/analytics/turns?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&bucket=day",
    "/v1/budgets?window=day&at=2026-11-01T12:00:00Z",
    f"/v1/budgets?window=day&at=2026-11-01T12:00:00Z&thread_id={THREAD}",
)


NAMED = {
    "tenant": "CASE n % 10 WHEN 0 THEN 'default' ELSE 'tenant ' || n % 10 END",
    "status": "CASE n % 500 WHEN 0 THEN 'running' ELSE 'idle' END",
    "last_outcome": "CASE n % 500 WHEN 0 THEN 'failed' ELSE 'completed' END",
    "outcome": "CASE n % 500 WHEN 0 THEN 'failed' ELSE 'completed' END",
    "reason": "CASE n % 1000 WHEN 0 THEN 'empty_answer' WHEN 500 THEN 'content_filter' ELSE '' END",
    "last_reason": "CASE n % 1000 WHEN 0 THEN 'empty_answer' WHEN 500 THEN 'content_filter' END",
    "hour": "date_trunc('hour', '2026-11-02'::timestamptz - n * interval '6 minutes', 'UTC')",
    "start": "date_trunc('day', '2026-11-02'::timestamptz - n * interval '6 minutes', 'UTC')",
    "window": "'day'",
    "width": "CASE n % 25 WHEN 0 THEN 'day' ELSE 'hour' END",
    "until": "'2026-11-02'::timestamptz - n * interval '6 minutes' + interval '3 minutes'",
    "last_turn": "'null'",
    "actions": "'ThreadOpened'",
    "by": "'caller'",
}
"""What row number n has in a column of a name. Rows lie six minutes apart, and the last ones in November."""

OF_KIND = {
    "uuid": "('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid",
    "timestamptz": "'2026-11-02'::timestamptz - n * interval '6 minutes'",
    "words": "('some word' || n % 200)::tsvector",
    "json": "'[]'",
    "smallint": "n % 1024",
    "integer": "n",
    "bigint": "n",
}
"""What it has in the other columns; in those with text, the column's name and the number."""


def value(column: Column) -> str:
    return NAMED.get(column.name) or OF_KIND.get(column.kind) or f"'{column.name} ' || n"


async def fill(owner: asyncpg.Connection, table: Table, instance: int) -> None:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    values = ", ".join(f"{value(column)}" for column in table.columns)
    name = place(table.name, InstanceId(instance))
    await owner.execute(f"INSERT INTO {name} ({names}) SELECT {values} FROM generate_series(1, {ROWS}) n")


class Asked:
    """Statements as the API sent them, and their plans."""

    def __init__(self, api: Api, owner: asyncpg.Connection, sent: list[tuple[str, Sequence[Any]]]) -> None:
        self._api = api
        self._owner = owner
        self._sent = sent

    async def plans(self, path: str, *, analyse: bool) -> list[list[dict[str, Any]]]:
        self._sent.clear()
        response = await self._api.get(path)
        assert response.is_success, response.text
        found = []
        for statement, arguments in self._sent:
            explained = f"EXPLAIN (FORMAT JSON{', ANALYZE' if analyse else ''}) {statement}"
            [row] = await self._owner.fetch(explained, *arguments)
            found.append(list(nodes(json.loads(row[0])[0]["Plan"])))
        assert found, "it asks read models something"
        return found


@pytest.fixture
async def asked(database_url: str, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    sent: list[tuple[str, Sequence[Any]]] = []
    read = PostgresReadModels._read

    async def listening(self: PostgresReadModels, statement: str, arguments: Sequence[Any]) -> Any:
        sent.append((statement, arguments))
        return await read(self, statement, arguments)

    monkeypatch.setattr(PostgresReadModels, "_read", listening)
    await owner.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off")
    async with running_api(database_url=database_url) as api:
        await api.opened(thread_id=THREAD)
        yield Asked(api, owner, sent)


@pytest.fixture
async def filled(asked: Asked, owner: asyncpg.Connection) -> Asked:
    instances = {row["projection"]: row["id"] for row in await owner.fetch("SELECT * FROM read_models.instances")}
    for projection in PROJECTIONS:
        for table in projection.tables:
            await fill(owner, table, instances[projection.name])
    await owner.execute("VACUUM ANALYZE")
    return asked


def looked_at(plan: list[dict[str, Any]]) -> float:
    """Count the rows, or entries of an index, that the node which reads most has met."""
    met: list[float] = [
        (node["Actual Rows"] + sum(count for name, count in node.items() if name.startswith("Rows Removed")))
        * node["Actual Loops"]
        for node in plan
        if node["Node Type"].endswith("Scan")
    ]
    return max(met)


async def test_a_page_looks_at_little_more_than_it_shows(filled: Asked) -> None:
    looked = {path: max(map(looked_at, await filled.plans(path, analyse=True))) for path in PAGES}

    assert {path: rows for path, rows in looked.items() if rows > PAGE} == {}, f"of {ROWS:,} there are"


async def test_a_sum_looks_at_the_hours_and_the_tenant_that_it_is_about(filled: Asked) -> None:
    looked = {path: max(map(looked_at, await filled.plans(path, analyse=True))) for path in SUMS}

    assert {path: rows for path, rows in looked.items() if rows > DAY} == {}, f"of {ROWS:,} there are"


async def test_no_table_is_read_whole_before_the_planner_knows_it(asked: Asked) -> None:
    for path in (*PAGES, *SUMS):
        for plan in await asked.plans(path, analyse=False):
            read_whole = [node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"]
            assert read_whole == [], path
