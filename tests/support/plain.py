"""The read models again, folded from the log by plain loops that share nothing with the projections."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from domain.ids import SLICES, Position, Slice
from domain.log.hash_chain import Record
from domain.ports.log import EventStore


async def whole_log(store: EventStore) -> Sequence[Record]:
    """Read everything, thread by thread in the order of versions."""
    found: list[Record] = []
    for number in range(SLICES):
        after = Position(0)
        while page := await store.read_slice(Slice(number), after, 1_000):
            found += page
            after = page[-1].position
    return sorted(found, key=lambda record: (record.thread_id, record.version))


ENDS = {
    "TurnCompleted": "completed",
    "TurnFailed": "failed",
    "TurnCancelled": "cancelled",
    "TurnRolledBack": "rolled_back",
}


def hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def bucket(milliseconds: int) -> int:
    """Find the first bucket that holds a duration: bucket b holds up to 2^(b/8) milliseconds."""
    return next(b for b in range(1_000) if 2 ** (b / 8) >= milliseconds - 1e-9)


def windows(at: datetime) -> dict[str, datetime]:
    """Say where the windows begin that an instant lies in."""
    day = hour(at).replace(hour=0)
    return {"hour": hour(at), "day": day, "month": day.replace(day=1), "lifetime": datetime(1970, 1, 1, tzinfo=UTC)}


def cleared(at: datetime, window: str) -> datetime | None:
    """When what was spent by then in a window no longer counts."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    ends = {"hour": hour(at) + timedelta(hours=1), "day": day + timedelta(days=1)}
    month = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    return None if window == "lifetime" else ends.get(window, month)


Spell = list[Any]
"""A version, and since when and until when something was so."""


class Plain:
    """Counters by key, and rows of threads, from threads that are no forks."""

    def __init__(self, records: Iterable[Record], prices: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.prices = prices or {}
        self.overruns: defaultdict[UUID, list[Spell]] = defaultdict(list)
        self.runs: defaultdict[UUID, list[Spell]] = defaultdict(list)
        self.asked: set[UUID] = set()
        """Threads in which a person was asked: when these ran is not worked out here."""
        self._limits: dict[UUID, list[dict[str, Any]]] = {}
        self._spent: defaultdict[UUID, list[tuple[datetime, int, int]]] = defaultdict(list)
        self.threads: dict[UUID, dict[str, Any]] = {}
        self.usage: Counter[tuple[Any, ...]] = Counter()
        self.nodes: Counter[tuple[Any, ...]] = Counter()
        self.tools: Counter[tuple[Any, ...]] = Counter()
        self.turns: Counter[tuple[Any, ...]] = Counter()
        self.budgets: Counter[tuple[Any, ...]] = Counter()
        self.latencies: defaultdict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
        self.messages: set[tuple[UUID, int, str, int, str | None]] = set()
        self.commands: Counter[tuple[UUID, str]] = Counter()
        self._calls: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
        self.turn_rows: dict[tuple[UUID, UUID], dict[str, Any]] = {}
        self._in_turn: dict[UUID, dict[str, Any]] = {}
        for record in records:
            self._take(record)

    def _take(self, record: Record) -> None:
        data, of = msgspec.json.decode(record.payload), record.thread_id
        if record.type == "ThreadOpened":
            counters = dict.fromkeys(("turns", "messages", "prompt_tokens", "completion_tokens"), 0)
            self.threads[of] = {"graph": data["graph"], "opened_at": record.recorded_at, "title": "", **counters}
        thread = self.threads[of]
        thread |= {"version": record.version, "last_event_at": record.recorded_at}
        metadata = msgspec.json.decode(record.metadata)
        if "command" in metadata:
            self.commands[of, metadata["command"]] += 1
        self._turn(record, data, thread)
        self._node(record, data, thread)
        self._tool(record, data, thread)
        self._spend(record, data)
        self._run(record, data)
        self._list(record, data)

    def _list(self, record: Record, data: dict[str, Any]) -> None:
        """Write down each turn: those that have ended with all that they did."""
        at, kind, of = record.recorded_at, record.type, record.thread_id
        row = self._in_turn.get(of)
        if kind in {"TurnStarted", "TurnEnqueued"}:
            counts = dict.fromkeys(("model_calls", "prompt_tokens", "completion_tokens", "cost", "tool_failures"), 0)
            new: dict[str, Any] = {
                "created_at": at,
                "started_at": None,
                "user_input": data.get("content"),
                "tools": [],
                **counts,
            }
            row = self.turn_rows.setdefault((of, UUID(data["turn_id"])), new | {"ended": False, "answer": None})
            if kind == "TurnStarted":
                row["started_at"] = at
                if retried := data.get("retries"):
                    row["user_input"] = self.turn_rows[of, UUID(retried)]["user_input"]
                self._in_turn[of] = row
        elif kind in ENDS:
            row = self.turn_rows[of, UUID(data["turn_id"])]
            took = row["started_at"] and (at - row["started_at"]) // timedelta(milliseconds=1)
            reason = data.get("reason") or data.get("how")
            row |= {"ended": True, "ended_at": at, "outcome": ENDS[kind], "reason": reason, "duration_ms": took}
        elif row is None or row["ended"]:
            return
        elif kind == "MessageAppended" and data.get("content"):
            row["answer" if data["role"] == "assistant" else "user_input"] = data["content"]
        elif kind == "ModelCalled":
            prompt, answer = self.prices.get(data["model"], (0, 0))
            row["model_calls"] += 1
            row["prompt_tokens"] += data["prompt_tokens"]
            row["completion_tokens"] += data["completion_tokens"]
            row["cost"] += data["prompt_tokens"] * prompt + data["completion_tokens"] * answer
        elif kind == "ToolRequested":
            row["tools"].append(data["tool"])
        elif kind in {"ToolFailed", "ToolOutcomeUnknown"}:
            row["tool_failures"] += 1

    def _spend(self, record: Record, data: dict[str, Any]) -> None:
        of, at, spells = record.thread_id, record.recorded_at, self.overruns[record.thread_id]
        if record.type == "BudgetSet":
            self._limits[of] = data.get("limits", [])
        elif record.type == "ModelCalled":
            prompt, answer = self.prices.get(data["model"], (0, 0))
            tokens = data["prompt_tokens"] + data["completion_tokens"]
            cost = data["prompt_tokens"] * prompt + data["completion_tokens"] * answer
            self._spent[of].append((at, tokens, cost))
        ends = []
        for limit in self._limits.get(of, []):
            window = limit["window"]
            counted = [one for one in self._spent[of] if cleared(one[0], window) == cleared(at, window)]
            tokens, cost = sum(one[1] for one in counted), sum(one[2] for one in counted)
            if tokens >= limit.get("tokens", tokens + 1) or cost >= limit.get("cost", cost + 1):
                ends.append(cleared(at, window))
        lasting = bool(spells) and (spells[-1][2] is None or spells[-1][2] > at)
        if ends:
            until = None if None in ends else max(end for end in ends if end)
            if lasting:
                spells[-1][2] = until
            else:
                spells.append([record.version, at, until])
        elif lasting:
            spells[-1][2] = at

    def _run(self, record: Record, data: dict[str, Any]) -> None:
        runs = self.runs[record.thread_id]
        if record.type == "TurnStarted":
            runs.append([record.version, record.recorded_at, None, data["turn_id"]])
        elif record.type in ENDS and runs and runs[-1][3] == data["turn_id"]:
            runs[-1][2] = record.recorded_at
        elif record.type == "ApprovalRequested":
            self.asked.add(record.thread_id)

    def _turn(self, record: Record, data: dict[str, Any], thread: dict[str, Any]) -> None:
        at, graph, kind = hour(record.recorded_at), thread["graph"], record.type
        if kind == "TurnStarted":
            thread["turns"] += 1
            thread["started"] = record.recorded_at
            self.turns[at, graph, "", "started"] += 1
        elif kind in ENDS:
            reason = data.get("reason") or data.get("how") or ""
            self.turns[at, graph, reason, ENDS[kind]] += 1
            lasted = (record.recorded_at - thread["started"]) // timedelta(milliseconds=1)
            self.turns[at, graph, reason, "duration_ms"] += lasted
            self._time("turns", record.recorded_at, graph, reason, bucket(lasted))

    def _time(self, what: str, at: datetime, *key: Any) -> None:
        self.latencies[what]["hour", hour(at), *key, "durations"] += 1
        self.latencies[what]["day", hour(at).replace(hour=0), *key, "durations"] += 1

    def _node(self, record: Record, data: dict[str, Any], thread: dict[str, Any]) -> None:
        at, graph = hour(record.recorded_at), thread["graph"]
        match record.type:
            case "MessageAppended":
                thread["messages"] += 1
                if data["role"] == "user" and not thread["title"]:
                    thread["title"] = " ".join(data["content"].split())[:80]
                self.messages.add((record.thread_id, record.version, data["role"], data["tokens"], None))
            case "ModelCalled":
                thread["prompt_tokens"] += data["prompt_tokens"]
                thread["completion_tokens"] += data["completion_tokens"]
                for name in ("prompt_tokens", "completion_tokens", "duration_ms"):
                    self.usage[at, graph, data["model"], name] += data[name]
                self.usage[at, graph, data["model"], "calls"] += 1
                self._time("usage", record.recorded_at, graph, data["model"], bucket(data["duration_ms"]))
                for window, start in windows(at).items():
                    spent = (start, record.thread_id, window, data["model"])
                    self.budgets[*spent, "calls"] += 1
                    for name in ("prompt_tokens", "completion_tokens"):
                        self.budgets[*spent, name] += data[name]
            case "NodeCompleted" | "NodeFailed":
                failed = "retried" if data.get("retry_in_ms") is not None else "failed"
                how = "completed" if record.type == "NodeCompleted" else failed
                self.nodes[at, graph, data["node"], how] += 1
                self.nodes[at, graph, data["node"], "duration_ms"] += data["duration_ms"]
                self._time("nodes", record.recorded_at, graph, data["node"], bucket(data["duration_ms"]))

    def _tool(self, record: Record, data: dict[str, Any], thread: dict[str, Any]) -> None:
        at, graph, calls = hour(record.recorded_at), thread["graph"], self._calls[record.thread_id]
        match record.type:
            case "ToolRequested":
                calls[record.version] = data["tool"]
                self.tools[at, graph, data["tool"], "requested"] += 1
            case "ToolStarted":
                self.tools[at, graph, calls[data["call"]], "started"] += 1
            case "ToolSucceeded" | "ToolFailed":
                how = "succeeded" if record.type == "ToolSucceeded" else "failed"
                tool = calls[data["call"]]
                self.tools[at, graph, tool, how] += 1
                self.tools[at, graph, tool, "duration_ms"] += data["duration_ms"]
                self._time("tools", record.recorded_at, graph, tool, bucket(data["duration_ms"]))
                self.messages.add((record.thread_id, record.version, "tool", data["tokens"], tool))
