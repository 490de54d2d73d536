"""What a thread's events mean, worked out a second time: from the JSON of `/events` alone, plainly and slowly.

Nothing of the domain is used here, so that its fold, its snapshots and its pages can be held against this.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

Json = dict[str, Any]

FATES = {
    "TurnCompleted": "completed",
    "TurnFailed": "failed",
    "TurnCancelled": "cancelled",
    "TurnRolledBack": "rolled_back",
}
OUTCOMES = {"ToolSucceeded": "succeeded", "ToolFailed": "failed", "ToolOutcomeUnknown": "unknown"}


def version_at(events: Sequence[Json], instant: datetime) -> int:
    """The last version recorded by then; 0 if the thread did not exist yet. What a fork inherits does not count."""
    began = max((event["version"] for event in events if event["type"] == "ThreadForked"), default=1)
    then = [e["version"] for e in events if datetime.fromisoformat(e["recorded_at"]) <= instant]
    return then[-1] if then and then[-1] >= began else 0


def written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def transcript(events: Sequence[Json]) -> list[Json]:
    messages: list[Json] = []
    requests: dict[int, Json] = {}
    for before, event in zip([None, *events], events, strict=False):
        kind, data, place = event["type"], event["data"], {k: event[k] for k in ("version", "recorded_at")}
        if kind == "MessageAppended":
            said = {"role": data["role"], "content": data["content"], "tokens": data["tokens"]}
            messages.append(place | said | ({"partial": True} if data.get("partial") else {}))
        elif kind == "ToolRequested":
            requests[event["version"]] = data
            if before and before["type"] in {"MessageAppended", "ToolRequested"}:
                messages[-1].setdefault("tool_calls", []).append(wish(data))
        elif (answered := answer(event)) and answered[0] in requests:
            call, content, outcome = answered
            told = {"role": "tool", "content": content, "tokens": data["tokens"], "outcome": outcome}
            asked = {"tool_call_id": requests[call]["call_id"], "name": requests[call]["tool"]}
            messages.append(place | told | asked)
    return messages


def answer(event: Json) -> tuple[int, str, str] | None:
    """Which call an event ends, with which text, and how."""
    data = event["data"]
    if event["type"] == "ApprovalDenied":
        return data["approval"], data["reason"], "denied"
    if event["type"] in OUTCOMES:
        return data["call"], data.get("content", data.get("error")), OUTCOMES[event["type"]]
    return None


def wish(data: Json) -> Json:
    return {"id": data["call_id"], "name": data["tool"], "arguments": data["arguments"]}


def patched(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        merged.pop(key, None) if value is None else merged.update({key: patched(merged.get(key), value)})
    return merged


class Naive:
    """A thread's state, as `/state` shows it but for the hash, after some of its events."""

    def __init__(self, events: Sequence[Json]) -> None:
        self.graph = ""
        self.values: Json = {}
        self.summary: Json | None = None
        self.window: list[Json] = []
        self.queue: list[Json] = []
        self.turn: Json | None = None
        self.last_turn: Json | None = None
        self.turns = self.prompt_tokens = self.completion_tokens = 0
        self.before: tuple[Json, list[Json], Json | None] = ({}, [], None)
        self.node_approval: Json | None = None
        for event in events:
            getattr(self, f"on_{event['type']}", self.ignore)(event["version"], event["data"])
        self.last = events[-1] if events else None

    def state(self) -> Json:
        assert self.last is not None
        return {
            "version": self.last["version"],
            "recorded_at": self.last["recorded_at"],
            "status": self.status,
            "graph": self.graph,
            "values": self.values,
            "summary": self.summary,
            "window": self.window,
            "turns": self.turns,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "turn": self.shown_turn,
            "last_turn": self.last_turn,
            "queue": self.queue,
        }

    @property
    def status(self) -> str:
        if self.last is None:
            return "unopened"
        if self.turn is None:
            return "idle"
        asked = [call.get("status") == "asked" for call in self.turn["calls"]]
        waits = (self.node_approval and not self.node_approval["granted"]) or (asked and all(asked))
        return "waiting" if waits and "cancelling" not in self.turn else "running"

    @property
    def shown_turn(self) -> Json | None:
        return self.turn

    def ignore(self, version: int, data: Json) -> None:
        pass

    def running(self) -> Json:
        assert self.turn is not None
        return self.turn

    def call(self, version: int) -> Json | None:
        return next((call for call in self.running()["calls"] if call["version"] == version), None)

    def on_ThreadOpened(self, version: int, data: Json) -> None:  # noqa: N802  (the others are named like this, too)
        self.graph, self.values = data["graph"], data.get("values", {})

    def on_ThreadForked(self, version: int, data: Json) -> None:  # noqa: N802
        if self.turn:
            self.queue = []

    def on_MessageEdited(self, version: int, data: Json) -> None:  # noqa: N802
        for message in self.window:
            if message["version"] == data["message"]:
                message.update(content=data["content"], tokens=data["tokens"])

    def on_TurnStarted(self, version: int, data: Json) -> None:  # noqa: N802
        self.before = deepcopy((self.values, self.window, self.summary))
        self.turns += 1
        self.queue = [queued for queued in self.queue if queued["turn_id"] != data["turn_id"]]
        self.node_approval = None
        self.turn = {
            **{key: data[key] for key in ("turn_id", "graph", "node")},
            "started": version,
            "step": 0,
            "attempt": 1,
            "run": 0,
            "durability": data.get("durability", "sync"),
            "calls": [],
            "prompt_tokens": 0,
            "prompt_limit": 0,
        }

    def on_TurnEnqueued(self, version: int, data: Json) -> None:  # noqa: N802
        self.queue.append({"version": version, "durability": "sync", "strategy": "enqueue", **data})

    def on_TurnResumed(self, version: int, data: Json) -> None:  # noqa: N802
        self.running().update(run=self.running()["run"] + 1, graph=data["graph"])

    def on_MessageAppended(self, version: int, data: Json) -> None:  # noqa: N802
        self.window.append({"version": version, **{key: data[key] for key in ("role", "content", "tokens")}})

    def on_ContextAssembled(self, version: int, data: Json) -> None:  # noqa: N802
        self.running().update(prompt_tokens=data["tokens"], prompt_limit=data["limit"])

    def on_ModelCalled(self, version: int, data: Json) -> None:  # noqa: N802
        self.prompt_tokens += data["prompt_tokens"]
        self.completion_tokens += data["completion_tokens"]

    def on_ToolRequested(self, version: int, data: Json) -> None:  # noqa: N802
        self.window[-1].setdefault("tool_calls", []).append(wish(data))
        self.running()["calls"].append({"version": version, "request": wish(data)})

    def on_ToolStarted(self, version: int, data: Json) -> None:  # noqa: N802
        if call := self.call(data["call"]):
            call.update(status="started", attempt=data.get("attempt", 1))

    def on_ApprovalRequested(self, version: int, data: Json) -> None:  # noqa: N802
        if data.get("node"):
            self.node_approval = {"version": version, "granted": False}
        elif call := self.call(data["call"]):
            call.update(status="asked", hash=data["hash"])
            if data.get("because", "policy") != "policy":
                call["because"] = data["because"]

    def on_ApprovalGranted(self, version: int, data: Json) -> None:  # noqa: N802
        call = self.call(data["approval"])
        if call is None:
            assert self.node_approval is not None
            self.node_approval["granted"] = True
            return
        call["status"] = "granted"
        if data.get("arguments") is not None:
            old, call["request"] = call["request"], {**call["request"], "arguments": data["arguments"]}
            asking = [message for message in self.window if message["role"] == "assistant"][-1]
            asking["tool_calls"] = [call["request"] if one == old else one for one in asking["tool_calls"]]

    def told(self, version: int, data: Json, content: str, call_version: int) -> None:
        call = self.call(call_version)
        if call is None:
            return
        self.running()["calls"].remove(call)
        told = {"version": version, "role": "tool", "content": content, "tokens": data["tokens"]}
        self.window.append({**told, "tool_call_id": call["request"]["id"], "name": call["request"]["name"]})

    def on_ApprovalDenied(self, version: int, data: Json) -> None:  # noqa: N802
        self.told(version, data, data["reason"], data["approval"])

    def on_ToolSucceeded(self, version: int, data: Json) -> None:  # noqa: N802
        self.told(version, data, data["content"], data["call"])

    def on_ToolFailed(self, version: int, data: Json) -> None:  # noqa: N802
        self.told(version, data, data["error"], data["call"])

    on_ToolOutcomeUnknown = on_ToolFailed  # noqa: N815

    def on_FanOutStarted(self, version: int, data: Json) -> None:  # noqa: N802
        items = [{"value": value} for value in data["items"]]
        if data.get("fan_out"):
            self.running().setdefault("more_items", []).append(items)
        else:
            self.running()["items"] = items

    def item(self, data: Json) -> Json:
        turn, number = self.running(), data.get("fan_out", 0)
        items: list[Json] = turn["more_items"][number - 1] if number else turn["items"]
        return items[data["index"]]

    def on_ItemCompleted(self, version: int, data: Json) -> None:  # noqa: N802
        item = self.item(data)
        item.update(done=True, result=data["result"])
        for field in ("step", "node", "values"):
            item.pop(field, None)

    def on_ItemAdvanced(self, version: int, data: Json) -> None:  # noqa: N802
        item = self.item(data)
        item.pop("attempt", None)
        item.update(step=item.get("step", 0) + 1, node=data["next"], values=data["values"])

    def on_ItemFailed(self, version: int, data: Json) -> None:  # noqa: N802
        self.item(data).update(attempt=data["attempt"] + 1)

    def on_StateUpdated(self, version: int, data: Json) -> None:  # noqa: N802
        self.values = patched(self.values, data["changes"])
        if data.get("outside"):
            self.before = (patched(self.before[0], data["changes"]), *self.before[1:])

    def on_NodeCompleted(self, version: int, data: Json) -> None:  # noqa: N802
        turn = self.running()
        turn.update(node=data["next"], step=turn["step"] + 1, attempt=1)
        turn.pop("items", None)
        turn.pop("more_items", None)
        self.node_approval = None
        for call in turn["calls"]:
            if call.get("status") == "asked":
                del call["status"]

    def on_NodeFailed(self, version: int, data: Json) -> None:  # noqa: N802
        self.running()["attempt"] += 1

    def on_HistoryCompacted(self, version: int, data: Json) -> None:  # noqa: N802
        self.window = [message for message in self.window if message["version"] > data["through"]]
        self.summary = {
            "through": data["through"],
            "text": data["summary"],
            "tokens": data["tokens"],
            "said": version,
        }

    def on_CancellationRequested(self, version: int, data: Json) -> None:  # noqa: N802
        self.running()["cancelling"] = data["how"]

    def end(self, data: Json, outcome: str, reason: str | None = None, detail: str | None = None) -> None:
        turn = self.running()
        if data["turn_id"] != turn["turn_id"]:
            self.queue = [queued for queued in self.queue if queued["turn_id"] != data["turn_id"]]
            return
        if outcome == "rolled_back":
            self.values, self.window, self.summary = self.before
        node = turn["node"] if outcome in {"failed", "cancelled"} else None
        named = {"turn_id": data["turn_id"], "outcome": outcome}
        self.last_turn = {**named, "reason": reason, "detail": detail, "node": node, "output": None}
        self.turn = None

    def on_TurnCompleted(self, version: int, data: Json) -> None:  # noqa: N802
        self.end(data, "completed")

    def on_TurnFailed(self, version: int, data: Json) -> None:  # noqa: N802
        self.end(data, "failed", data["reason"], data["detail"])

    def on_TurnCancelled(self, version: int, data: Json) -> None:  # noqa: N802
        self.end(data, "cancelled", data["how"])

    def on_TurnRolledBack(self, version: int, data: Json) -> None:  # noqa: N802
        self.end(data, "rolled_back")


def leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside objects by its path; objects themselves as the set of their keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*place, key), "{}" if isinstance(inner, dict) else [inner]
            yield from leaves(inner, (*place, key))


def changed_values(before: Json, after: Json) -> set[tuple[str, str]]:
    """Which pointers were added, removed or changed: of what came or went as a whole, the outermost."""
    was, now = dict(leaves(before)), dict(leaves(after))
    found: set[tuple[str, str]] = set()
    for path in {*was, *now}:
        within = [path[:length] for length in range(1, len(path))]
        if any((outer in was) != (outer in now) or was[outer] != now[outer] for outer in within):
            continue
        pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in path)
        if path not in was or path not in now:
            found.add((pointer, "added" if path in now else "removed"))
        elif repr(was[path]) != repr(now[path]):
            found.add((pointer, "changed"))
    return found


def counts(events: Sequence[Json], since: int) -> Json:
    """The events after a version in numbers."""
    requests = {event["version"]: event["data"]["tool"] for event in events if event["type"] == "ToolRequested"}
    new = [event for event in events if event["version"] > since]
    kinds = Counter(event["type"] for event in new)
    models = [event["data"] for event in new if event["type"] == "ModelCalled"]
    roles = Counter(message["role"] for message in transcript(events) if message["version"] > since)
    calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
    nodes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in new:
        answered = answer(event)
        if event["type"] == "ToolRequested":
            calls[event["data"]["tool"]]["requested"] += 1
        elif answered and answered[0] in requests:
            calls[requests[answered[0]]][answered[2]] += 1
        elif event["type"] in {"NodeCompleted", "NodeFailed"}:
            nodes[event["data"]["node"]][event["type"].removeprefix("Node").lower()] += 1
    fates = {"enqueued": kinds["TurnEnqueued"], "started": kinds["TurnStarted"]}
    outcomes = ("requested", *OUTCOMES.values(), "denied")
    return {
        "events": dict(kinds),
        "messages": {role: roles[role] for role in ("user", "assistant", "tool")},
        "turns": fates | {fate: kinds[kind] for kind, fate in FATES.items()},
        "tool_calls": {tool: {outcome: found[outcome] for outcome in outcomes} for tool, found in calls.items()},
        "nodes": {node: {how: found[how] for how in ("completed", "failed")} for node, found in nodes.items()},
        "model_calls": dict(Counter(data["model"] for data in models)),
        "tokens": {side: sum(data[f"{side}_tokens"] for data in models) for side in ("prompt", "completion")},
    }
