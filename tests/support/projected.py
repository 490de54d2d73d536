"""Read models as they are stored, to be held against what a plain fold of the log says."""

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
from projections.messages import MESSAGES
from projections.nodes import NODES
from projections.status_periods import STATUS_PERIODS
from projections.threads import THREADS
from projections.tools import TOOLS
from projections.turns import TURNS
from projections.usage import USAGE
from tests.support.plain import Plain


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
    found += spell_differences(await rows(models, STATUS_PERIODS, mine), plain)
    if audit != dict(plain.commands):
        found.append(f"audit differs: {len(audit)} commands, not {len(plain.commands)}")
    return found


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
