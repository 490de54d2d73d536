"""Read models as they are stored, to be held against what a plain fold of the log says."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from domain.ids import Tenant
from domain.ports.read_models import ReadModels
from domain.read_models.queries import Select, Where
from domain.read_models.tables import Table
from projections import nodes, tools, turns, usage
from projections.budgets import BUDGETS
from projections.command_log import AUDIT
from projections.engine.turn_figures import MAX_TEXT_CHARACTERS
from projections.messages import MESSAGES
from projections.nodes import NODES
from projections.status_periods import STATUS_PERIODS
from projections.threads import THREADS
from projections.tools import TOOLS
from projections.turn_list import TURN_LIST, TURN_TOOLS
from projections.turns import TURNS
from projections.usage import USAGE
from tests.support.plain import Plain

CUT = MAX_TEXT_CHARACTERS - 1
"""Characters of a text that are compared."""


async def rows(models: ReadModels, table: Table, *where: Where) -> Sequence[dict[str, Any]]:
    found = await models.select(Select(table, where, limit=10_000_000))
    return [dict(zip(table.names, row, strict=True)) for row in found]


async def differences(models: ReadModels, plain: Plain, tenant: Tenant) -> list[str]:
    """Say in a sentence each where the read models are not what the log comes to: empty if they are."""
    found: list[str] = []
    mine = Where("tenant", "=", tenant)
    threads = {row["thread_id"]: row for row in await rows(models, THREADS, mine)}
    if threads.keys() != plain.threads.keys():
        found.append(f"{len(threads)} threads are there, not {len(plain.threads)}")
    for thread_id, wanted in plain.threads.items():
        row = threads.get(thread_id, {})
        found += [
            f"{thread_id}: {name} is {row.get(name)!r}, not {value!r}"
            for name, value in wanted.items()
            if name not in {"started", "title"} and row.get(name) != value
        ]
    for table, counted, names in (
        (USAGE, plain.usage, ("hour", "graph", "model")),
        (NODES, plain.nodes, ("hour", "graph", "node")),
        (TOOLS, plain.tools, ("hour", "graph", "tool")),
        (TURNS, plain.turns, ("hour", "graph", "reason")),
        (BUDGETS, plain.budgets, ("start", "thread_id", "window", "model")),
        (usage.LATENCY, plain.latencies["usage"], ("width", "start", "graph", "model", "bucket")),
        (nodes.LATENCY, plain.latencies["nodes"], ("width", "start", "graph", "node", "bucket")),
        (tools.LATENCY, plain.latencies["tools"], ("width", "start", "graph", "tool", "bucket")),
        (turns.LATENCY, plain.latencies["turns"], ("width", "start", "graph", "reason", "bucket")),
    ):
        sums: Counter[tuple[Any, ...]] = Counter()
        for row in await rows(models, table, mine):
            for column in table.columns:
                if column.rule == "add":
                    sums[(*(row[name] for name in names), column.name)] += row[column.name]
        checked = {key[-1] for key in counted}
        found += [
            f"{table.name}: {key} is {sums[key]}, not {counted[key]}"
            for key in {k for k in sums if k[-1] in checked} | set(counted)
            if sums[key] != counted[key]
        ]
    messages = {
        (row["thread_id"], row["version"], row["role"], row["tokens"], row["tool"])
        for row in await rows(models, MESSAGES, mine)
    }
    if messages != plain.messages:
        found.append(f"messages differ: {len(messages ^ plain.messages)}")
    audit = {
        (row["thread_id"], str(row["command"])): row["events"]
        for row in await rows(models, AUDIT, mine, Where("by", "=", "caller"))
    }
    found += turn_differences(await rows(models, TURN_LIST, mine), await rows(models, TURN_TOOLS, mine), plain)
    found += spell_differences(await rows(models, STATUS_PERIODS, mine), plain)
    if audit != dict(plain.commands):
        found.append(f"audit differs: {len(audit)} commands, not {len(plain.commands)}")
    return found


def turn_differences(listed: Sequence[dict[str, Any]], called: Sequence[dict[str, Any]], plain: Plain) -> Iterator[str]:
    """Say which turns are not listed as they were. A turn that has not ended may be listed as of an earlier event."""
    by_turn = {(row["thread_id"], row["turn_id"]): row for row in listed}
    if by_turn.keys() != plain.turn_rows.keys():
        yield f"turn_list: {len(by_turn)} turns are there, not {len(plain.turn_rows)}"
    counted = Counter[tuple[Any, ...]]()
    for row in called:
        counted[row["thread_id"], row["turn_id"], row["tool"]] += row["calls"]
    wanted_calls = Counter((*turn, tool) for turn, wanted in plain.turn_rows.items() for tool in wanted["tools"])
    if +counted != wanted_calls:
        yield f"turn_tools: {sorted(map(str, counted.keys() ^ wanted_calls.keys()))[:3]} differ, or their counts"
    for turn, wanted in plain.turn_rows.items():
        if not wanted["ended"] or turn not in by_turn:
            continue
        row, tools = by_turn[turn], wanted["tools"]
        shown = {**row, "tools": json.loads(row["tools"])}
        expected = {**wanted, "tools": list(dict.fromkeys(tools)), "tool_calls": len(tools)}
        for name in expected.keys() - ({"ended"} if plain.prices else {"ended", "cost"}):
            found, value = shown[name], expected[name]
            if name in {"answer", "user_input"}:
                found, value = str(found)[:CUT], str(value)[:CUT]
            if found != value:
                yield f"turn_list: {turn[1]}: {name} is {found!r}, not {value!r}"


def spell_differences(spells: Sequence[dict[str, Any]], plain: Plain) -> Iterator[str]:
    """Say where it is not told right when threads ran, and when they were over their budgets."""
    told: defaultdict[tuple[Any, str], list[tuple[Any, ...]]] = defaultdict(list)
    for row in spells:
        told[row["thread_id"], row["status"]].append((row["version"], row["since"], row["until"]))
    for kind, wanted in (("over_budget", plain.overruns), ("running", plain.runs)):
        for thread_id in plain.threads:
            rows, spells_of = sorted(told[thread_id, kind]), [tuple(spell[:3]) for spell in wanted[thread_id]]
            if rows != spells_of and not (kind == "running" and thread_id in plain.asked):
                yield f"{thread_id}: it was {kind} in {rows}, not in {spells_of}"
