"""The hot statements find their rows through an index, whatever the planner knows about the tables."""

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from infrastructure.postgres import statements
from infrastructure.postgres.access_log import PAGE, PAGE_OF_ACTOR, PAGE_OF_KIND, PAGE_OF_THREAD
from infrastructure.postgres.log.append_sql import APPEND
from infrastructure.postgres.pool import PLANNER
from infrastructure.postgres.read_models.statements import BEHIND

HOT = {
    name: getattr(statements, name)
    for name in (
        "READ",
        "READ_AT",
        "READ_PAGE",
        "READ_SLICE",
        "READ_SLICES",
        "RECORDED",
        "COMMAND",
        "THREAD",
        "THREADS",
        "VERSION_AT",
        "HASHES",
        "THREADS_OF",
        "SAVE_SNAPSHOT",
        "NEAREST_SNAPSHOT",
    )
} | {"APPEND": APPEND}

FILL = """
INSERT INTO threads (slice, thread_id, tenant, version, hash, opened_at, at, in_turn)
SELECT n % 1024, uuidv7(), 'tenant-' || n % 10, 20, sha256('x'), now(), now(), n % 1000 = 0
  FROM generate_series(1, 20000) AS n;
INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
SELECT slice, thread_id, version, row_number() OVER (PARTITION BY slice), tenant, 'T', 1, '{}', '{}', now(), hash
  FROM (SELECT slice, thread_id, tenant, hash, generate_series(1, 5) AS version FROM threads) AS all_events;
INSERT INTO commands (slice, command_id, tenant, thread_id, request_hash, result)
SELECT slice, gen_random_uuid(), tenant, thread_id, hash, '{}' FROM threads;
INSERT INTO snapshots (slice, thread_id, version, tenant, hash, at, fingerprint, state)
SELECT slice, thread_id, 20, tenant, hash, at, 'f', '{}' FROM threads;
INSERT INTO reads (at, tenant, what, request, actor, threads)
SELECT now() - n * interval '1 second', 'tenant', (ARRAY['state', 'messages', 'list'])[n % 3 + 1], '/v1/threads',
       'actor-' || n % 50, ARRAY(SELECT md5((n % 2000 + m)::text)::uuid FROM generate_series(1, 1 + n % 3) AS m)
  FROM generate_series(1, 20000) AS n;
ANALYZE;
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


async def plan_of(connection: asyncpg.Connection, statement: str) -> list[dict[str, Any]]:
    """Plan as for a prepared statement that has run a few times: without looking at the parameters."""
    for name, value in {**PLANNER, "plan_cache_mode": "force_generic_plan"}.items():
        await connection.execute(f"SET {name} = {value}")
    await connection.execute(f"PREPARE hot AS {statement}")
    nulls = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
    [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE hot ({nulls})")
    await connection.execute("DEALLOCATE hot")
    return list(nodes(json.loads(row[0])[0]["Plan"]))


@pytest.fixture(params=["empty", "filled"])
async def tables(request: pytest.FixtureRequest, owner: asyncpg.Connection) -> asyncpg.Connection:
    """Give tables that were never analysed, and tables with 20,000 threads."""
    if request.param == "filled":
        await owner.execute(FILL)
    return owner


async def test_no_hot_statement_reads_a_whole_table(tables: asyncpg.Connection) -> None:
    for name, statement in HOT.items():
        plan = await plan_of(tables, statement)
        read_whole = {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}
        assert read_whole <= {"leases"}, f"{name}: leases are 64 rows"


async def test_a_thread_s_events_are_found_by_its_key(tables: asyncpg.Connection) -> None:
    """By their slice they could be found as well, among all that it has."""
    for name in ("READ", "READ_AT", "READ_PAGE", "RECORDED", "VERSION_AT"):
        plan = await plan_of(tables, HOT[name])
        used = [
            node for node in plan if "events" in {node.get("Relation Name"), *node.get("Index Name", "").split("_")}
        ]
        assert {node["Index Name"] for node in used if "Index Name" in node} == {"events_of_thread"}, name


UNEQUAL = """
INSERT INTO threads (slice, thread_id, tenant, version, hash, opened_at, at, in_turn)
SELECT n * 7, uuidv7(), 't', CASE WHEN n % 4 = 0 THEN 20000 ELSE 100 END, sha256('x'), now(), now(), false
  FROM generate_series(1, 12) AS n;
INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
SELECT slice, thread_id, number, number, tenant, 'T', 1, '{}', '{}', now(), hash
  FROM threads CROSS JOIN LATERAL generate_series(1, version) AS number;
ANALYZE;
"""
READS = {
    "READ": "{slice}, '{thread_id}', {version}, {version} + 100, 10",
    "READ_PAGE": "{slice}, '{thread_id}', {version}, {version} + 100, 10, 1000",
    "READ_AT": "{slice}, '{thread_id}', '{{1,2}}'",
    "RECORDED": "{slice}, '{thread_id}', {version}, ''",
    "VERSION_AT": "{slice}, '{thread_id}', now()",
}


async def test_a_thread_s_events_are_not_read_by_a_new_plan_each_time(owner: asyncpg.Connection) -> None:
    """Of threads whose lengths differ, the planner would find it worth it, and take twice as long as the reading."""
    await owner.execute(UNEQUAL)
    threads = await owner.fetch("SELECT slice, thread_id, version FROM threads")
    for setting, value in PLANNER.items():
        await owner.execute(f"SET {setting} = {value}")
    for name, given in READS.items():
        await owner.execute(f"PREPARE {name} AS {HOT[name]}")
        for number in range(20):
            await owner.fetch(f"EXECUTE {name} ({given.format(**threads[number % len(threads)])})")

    rows = await owner.fetch("SELECT name, custom_plans, generic_plans FROM pg_prepared_statements")

    kept = {row["name"]: (row["custom_plans"], row["generic_plans"]) for row in rows}
    assert {name: kept[name.lower()] for name in READS} == dict.fromkeys(READS, (5, 15)), "it tries five and keeps one"


async def test_threads_with_something_to_run_are_found_through_the_turns_that_run(owner: asyncpg.Connection) -> None:
    await owner.execute(FILL)

    plan = await plan_of(owner, statements.RUNNABLE)

    assert "threads_in_turn" in {node.get("Index Name") for node in plan}


async def test_a_page_comes_out_of_the_index_in_its_order(tables: asyncpg.Connection) -> None:
    for name in ("READ", "READ_PAGE", "READ_SLICE", "HASHES", "THREADS", "THREADS_OF", "NEAREST_SNAPSHOT"):
        plan = await plan_of(tables, HOT[name])
        assert [node["Node Type"] for node in plan if "Sort" in node["Node Type"]] == [], name


async def test_rows_are_locked_in_the_order_that_appends_are_given_in(tables: asyncpg.Connection) -> None:
    plan = await plan_of(tables, APPEND)

    (moved,) = [node for node in plan if node.get("Operation") == "Update" and node["Relation Name"] == "threads"]
    (join,) = moved["Plans"]
    outer, inner = join["Plans"]
    assert (join["Node Type"], outer.get("CTE Name"), inner["Relation Name"]) == ("Nested Loop", "asked", "threads")


async def test_the_feed_walks_through_each_slice_s_index_and_stops_when_it_has_enough(
    owner: asyncpg.Connection,
) -> None:
    await owner.execute(FILL)
    for name, value in PLANNER.items():
        await owner.execute(f"SET {name} = {value}")
    statement = statements.READ_SLICES
    given = {
        "$1": "(SELECT array_agg(n::smallint) FROM generate_series(0, 1023) AS n)",
        "$2": "(SELECT array_agg(0::bigint) FROM generate_series(0, 1023))",
        "$3": "'tenant-1'::text",
        "$4": "NULL",
        "$5": "5::bigint",
        "$6": "300::bigint",
        "$7": "4000000",
    }
    for parameter, value in given.items():
        statement = statement.replace(parameter, value)

    [row] = await owner.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")

    plan = list(nodes(json.loads(row[0])[0]["Plan"]))
    looked_at = [node for node in plan if node.get("Relation Name") == "events"]
    assert {node["Index Name"] for node in looked_at} == {"events_pkey"}
    assert {node["Node Type"] for node in looked_at} == {"Index Scan"}
    read = [node["Actual Rows"] * node["Actual Loops"] for node in looked_at]
    assert max(read) < 450, "of 100,000 there are: a slice has about a hundred"


async def test_moving_a_head_stays_in_its_page(owner: asyncpg.Connection) -> None:
    """A HOT update writes no index: the tables leave room, and no index holds what changes with each event."""
    await owner.execute(FILL)
    await owner.execute("VACUUM threads")
    for _ in range(3):
        await owner.execute(
            "UPDATE threads SET version = version + 1, at = now(), hash = sha256(hash) WHERE slice < 100"
        )
        await owner.execute("UPDATE slices SET head = head + 1")
    await owner.execute("SELECT pg_stat_force_next_flush()")

    counts = await owner.fetch("SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables")

    hot = {row["relname"]: row["n_tup_hot_upd"] / row["n_tup_upd"] for row in counts if row["n_tup_upd"]}
    assert hot["slices"] == 1
    assert hot["threads"] > 0.3  # three in a row to each row of a full page; in life they are spread


@pytest.mark.parametrize("analysed", [True, False])
async def test_finding_an_instant_does_not_grow_with_the_thread(owner: asyncpg.Connection, *, analysed: bool) -> None:
    for name, value in PLANNER.items():
        await owner.execute(f"SET {name} = {value}")
    thread_id = await owner.fetchval("SELECT uuidv7()")
    await owner.execute(
        """INSERT INTO events
               (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
           SELECT 1, $1, n, n, 't', 'T', 1, '{}', '{}', '2026-01-01'::timestamptz + n * interval '1 second', 'x'
             FROM generate_series(1, 20000) AS n""",
        thread_id,
    )
    await owner.execute(
        """INSERT INTO threads (slice, thread_id, tenant, version, hash, opened_at, at, in_turn)
           VALUES (1, $1, 't', 20000, sha256('x'), now(), now(), false)""",
        thread_id,
    )
    if analysed:
        await owner.execute("ANALYZE")
    statement = statements.VERSION_AT.replace("$1", "1").replace("$2", f"'{thread_id}'")
    statement = statement.replace("$3", "'2026-01-01 05:00:00.5+00'")

    assert await owner.fetchval(statement) == 18000

    [row] = await owner.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    looked_up = [n for n in nodes(json.loads(row[0])[0]["Plan"]) if n.get("Relation Name") == "events"]
    assert [node["Node Type"] for node in looked_up] == ["Index Scan"]
    assert looked_up[0]["Actual Loops"] <= 18
    assert looked_up[0]["Actual Rows"] <= 1


ACCESSES = {PAGE: "reads_pkey", PAGE_OF_ACTOR: "reads_by_actor", PAGE_OF_KIND: "reads_by_kind"}


@pytest.mark.parametrize("statement", ACCESSES, ids=ACCESSES.get)
async def test_who_has_read_what_comes_out_of_an_index_in_its_order(tables: asyncpg.Connection, statement: str) -> None:
    plan = await plan_of(tables, statement)

    assert [node["Node Type"] for node in plan] == ["Limit", "Index Scan"]
    assert plan[1]["Index Name"] == ACCESSES[statement]


async def test_who_has_read_a_thread_is_found_through_the_index_of_threads(owner: asyncpg.Connection) -> None:
    await owner.execute(FILL)

    plan = await plan_of(owner, PAGE_OF_THREAD)

    assert [node["Index Name"] for node in plan if "Index Name" in node] == ["reads_of_thread"]
    assert "Seq Scan" not in {node["Node Type"] for node in plan}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_where_a_line_is_behind_is_found_by_going_through_slices_and_positions_once(
    owner: asyncpg.Connection, mode: str
) -> None:
    """Not with a look-up for each slice: that takes seven times as long, with each batch."""
    line = await owner.fetchval(
        "WITH line AS (INSERT INTO read_models.lines DEFAULT VALUES RETURNING id), "
        "positions AS (INSERT INTO read_models.positions (line, slice) SELECT line.id, slices.slice FROM line, slices) "
        "SELECT id FROM line"
    )
    await owner.execute("UPDATE slices SET head = 9 WHERE slice = 1023")
    for name, value in {**PLANNER, "plan_cache_mode": mode}.items():
        await owner.execute(f"SET {name} = {value}")

    await owner.execute(f"PREPARE behind (integer) AS {BEHIND}")
    planned = await owner.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE behind ({line})")

    scans = [node for node in nodes(json.loads(planned)[0]["Plan"]) if "Relation Name" in node]
    assert {node["Relation Name"]: node["Actual Loops"] for node in scans} == {"slices": 1, "positions": 1}
    assert [tuple(row) for row in await owner.fetch(f"EXECUTE behind ({line})")] == [(1023, 0, 9)]
