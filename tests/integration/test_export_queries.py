"""The questions in docs/export.md, asked of real turns, against the same computed from the log step by step."""

import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import pytest

from domain.ids import SLICES, Position, Slice
from domain.thread.codec import Recorded, decode
from domain.thread.events import (
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    ToolFailed,
    ToolRequested,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnRolledBack,
    TurnStarted,
)
from infrastructure.archive.manifest import Format
from infrastructure.settings import CHECKOUT
from tests.support.files import export
from tests.support.http import running_api

PAGE = (CHECKOUT / "docs" / "export.md").read_text(encoding="utf-8")
VIEW, *QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
PARQUET = "read_parquet('export/events/*/*.parquet', hive_partitioning = true)"
(JSON_LINES,) = re.findall(r"`(read_json\([^`]+\))`", PAGE)
TALK = (
    "hello",
    "What is 12 * 3.5?",
    "/calculate 6 * 7",
    "/calculate 1 / 0",
    "Where is my INVOICE of last week?",
    "The invoice, please",
    "/current_time UTC",
)
AGENTS = ("tests.support.agents:stuck",)

Log = Sequence[Recorded]
Rows = list[tuple[Any, ...]]


@pytest.fixture
async def log(database_url: str, tmp_path: Path, format_: Format) -> AsyncIterator[Log]:
    """Have some conversations, export them, and give the whole log."""
    async with running_api(database_url=database_url, agents=AGENTS) as api:
        for number in range(4):
            thread = await api.opened()
            for said in TALK[: 3 + number * 2]:
                assert (await api.turn(thread, said)).json()["status"] == "completed"
        stuck = await api.opened(graph="stuck")
        begun = (await api.post(f"/v1/threads/{stuck}/turns", json={"user_input": "go"})).json()
        await api.post(f"/v1/threads/{stuck}/turns/{begun['turn_id']}/cancel", params={"wait": True})
        runtime = api.service.runtime
        store = runtime.repository.store
        await export(store, runtime.log.archive, tmp_path / "export", format_)
        yield [
            decode(record)
            for number in range(SLICES)
            for record in await store.read_slice(Slice(number), Position(0), 100_000)
        ]


@pytest.fixture
def answers(log: Log, tmp_path: Path, format_: Format) -> Sequence[Rows]:
    """Ask everything that the page asks."""
    assert PARQUET in VIEW
    view = VIEW if format_ == "parquet" else VIEW.replace(PARQUET, JSON_LINES)
    with duckdb.connect() as connection:
        connection.execute(view.replace("'export/", f"'{tmp_path}/export/"))
        # By Arrow: fetchall() wants pytz for instants.
        tables = [connection.sql(query).to_arrow_table() for query in QUERIES]
        return [[tuple(row.values()) for row in table.to_pylist()] for table in tables]


def test_the_page_s_questions_are_answered_as_the_log_says(log: Log, answers: Sequence[Rows]) -> None:
    tokens, outcomes, tools, busiest, mentions, nodes = answers

    assert tokens == tokens_a_day(log)
    assert {row[:2] for row in outcomes} == {row[:2] for row in turns_by_outcome(log)}
    assert [row[2] for row in outcomes] == pytest.approx([row[2] for row in turns_by_outcome(log)], abs=1)
    assert tools == [(*row[:3], pytest.approx(row[3]), row[4]) for row in slowest_tools(log)]
    assert [(str(row[0]), *row[1:4]) for row in busiest] == busiest_threads(log)
    assert [(str(row[1]), *row[2:]) for row in mentions] == who_mentioned(log, "invoice")
    assert nodes == time_at_nodes(log)
    assert (len(tokens), len(outcomes), len(tools), len(busiest), len(mentions) > 5) == (1, 2, 2, 5, True)


def tokens_a_day(log: Log) -> Rows:
    used: defaultdict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    for recorded in log:
        if isinstance(event := recorded.event, ModelCalled):
            sums = used[recorded.recorded_at.date(), event.model]
            sums[0] += 1
            sums[1] += event.prompt_tokens
            sums[2] += event.completion_tokens
    return [(*key, *sums) for key, sums in sorted(used.items())]


def turns_by_outcome(log: Log) -> Rows:
    began = {r.event.turn_id: r.recorded_at for r in log if isinstance(r.event, TurnStarted)}
    took: defaultdict[str, list[float]] = defaultdict(list)
    for recorded in log:
        event = recorded.event
        if isinstance(event, TurnCompleted | TurnFailed | TurnCancelled | TurnRolledBack):
            seconds = (recorded.recorded_at - began[event.turn_id]).total_seconds()
            took[type(event).__name__].append(seconds * 1_000)
    rows = [(outcome, len(times), median(times)) for outcome, times in took.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def slowest_tools(log: Log) -> Rows:
    asked = {(r.thread_id, r.version): r.event.tool for r in log if isinstance(r.event, ToolRequested)}
    times: defaultdict[str, list[int]] = defaultdict(list)
    failed: Counter[str] = Counter()
    for recorded in log:
        if isinstance(event := recorded.event, ToolSucceeded | ToolFailed):
            tool = asked[recorded.thread_id, event.call]  # type: ignore[index]
            times[tool].append(event.duration_ms)
            failed[tool] += isinstance(event, ToolFailed)
    rows = [(tool, len(ms), failed[tool], percentile(ms, 0.95), max(ms)) for tool, ms in times.items()]
    return sorted(rows, key=lambda row: (-row[3], row[0]))


def percentile(values: list[int], share: float) -> float:
    """Interpolate between the two values nearest to a share of all."""
    steps = list(pairwise([*sorted(values), max(values)]))
    place = (len(values) - 1) * share
    low, high = steps[int(place)]
    return low + (high - low) * (place - int(place))


def busiest_threads(log: Log) -> Rows:
    rows = []
    for thread_id in {r.thread_id for r in log}:
        events = [r.event for r in log if r.thread_id == thread_id]
        turns = sum(isinstance(event, TurnStarted) for event in events)
        questions = sum(isinstance(event, MessageAppended) and event.role == "user" for event in events)
        rows.append((str(thread_id), len(events), turns, questions))
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:10]


def who_mentioned(log: Log, word: str) -> Rows:
    found = [
        (r.recorded_at, str(r.thread_id), int(r.version), r.event.role, r.event.content)
        for r in log
        if isinstance(r.event, MessageAppended) and word in (r.event.content or "").lower()
    ]
    return [row[1:] for row in sorted(found)]


def time_at_nodes(log: Log) -> Rows:
    completed: defaultdict[str, list[NodeCompleted]] = defaultdict(list)
    for recorded in log:
        if isinstance(recorded.event, NodeCompleted):
            completed[recorded.event.node].append(recorded.event)
    rows = [
        (node, len(events), sum(e.duration_ms for e in events), max(e.attempt for e in events))
        for node, events in completed.items()
    ]
    return sorted(rows, key=lambda row: (-row[2], row[0]))
