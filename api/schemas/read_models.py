"""Answers of queries to the read models, and of the projections' administration."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from msgspec import Struct

from api.schemas.page import Page
from api.schemas.view import view_of
from domain.money import dollars
from domain.ports.read_models import Instance, Parked, ProjectionGroup, Status
from domain.windows import Window


class Sums(Struct, frozen=True):
    """Sums by group and by width of time. Each item has the groups' values, the counts, and percentiles."""

    bucket: str | None
    group_by: Sequence[str]
    items: Sequence[Mapping[str, Any]]


class Spent(Struct, frozen=True, omit_defaults=True):
    """What was spent in a window of time."""

    window: Window
    start: datetime
    calls: int
    prompt_tokens: int
    completion_tokens: int
    tokens: int
    cost_usd: float
    saved_tokens: int
    saved_usd: float
    cached_tokens: int
    thread_id: UUID | None = None
    model: str | None = None
    graph: str | None = None
    subject: str | None = None

    @classmethod
    def of(cls, window: Window, start: datetime, sums: Mapping[str, Any]) -> Self:
        """Return the sums of a window."""
        tokens = sums["prompt_tokens"] + sums["completion_tokens"]
        money: dict[str, Any] = {"cost_usd": dollars(sums["cost"]), "saved_usd": dollars(sums["saved_cost"])}
        named = {name: value for name, value in sums.items() if name not in {"cost", "saved_cost"}}
        return cls(window, start, tokens=tokens, **money, **named)


class AuditEntry(Struct, frozen=True):
    """A command and what it changed; or, with `by` agent, what the agent did because of it."""

    at: datetime
    thread_id: UUID
    command: UUID
    by: Literal["caller", "agent"]
    actor: str | None
    client: str | None
    correlation: str | None
    principal: str | None
    """The verified caller; null without authentication."""
    actions: Sequence[str]
    version: int
    last_version: int


class InstanceView(Struct, frozen=True, omit_defaults=True):
    """A build of a projection's tables. `lag` counts events. A build in progress has a `rate` in events a second."""

    instance: int
    version: int
    status: Status
    done: int
    lag: int
    parked: int
    created_at: datetime
    throttle: int | None = None
    rate: float | None = None
    seconds_left: float | None = None


class ProjectionView(Struct, frozen=True):
    """A projection: the instance that serves, the one that is being built, and those that are kept."""

    name: str
    lag: int | None
    parked: int
    instances: Sequence[InstanceView]

    @classmethod
    def of(cls, name: str, instances: Sequence[InstanceView]) -> Self:
        """Return a projection with its instances."""
        serving = next((one for one in instances if one.status == "serving"), None)
        return cls(name, serving.lag if serving else None, serving.parked if serving else 0, instances)


class ParkedView(Struct, frozen=True):
    """A thread that a projection leaves out from an event on, and why."""

    projection: str
    instance: int
    thread_id: UUID
    version: int
    type: str
    error: str
    attempts: int
    at: datetime

    @classmethod
    def of(cls, projection: str, parked: Parked) -> Self:
        """Return a parked thread of a projection."""
        return view_of(cls, parked, projection=projection)


class Rebuilding(Struct, frozen=True):
    """Projections that are being rebuilt."""

    projections: Sequence[str]
    line: int


class Settled(Struct, frozen=True):
    """The result of a retry or a skip of a parked thread."""

    projection: str
    thread_id: UUID
    outcome: Literal["current", "parked_again"]


Standing: TypeAlias = Literal["open", "running", "waiting", "over_budget"]
"""A thread's status at an instant. Every thread is `open` once it was opened; the others are in addition to that."""


class Stood(Struct, frozen=True):
    """A thread that had a status at an instant, and since when it had it."""

    thread_id: UUID
    since: datetime


class Instant(Struct, frozen=True, omit_defaults=True):
    """The threads that were open, ran, waited for a person, or were over budget at an instant; or one of the lists."""

    at: datetime
    open: Page[Stood] | None = None
    running: Page[Stood] | None = None
    waiting: Page[Stood] | None = None
    over_budget: Page[Stood] | None = None


def audit_entry(row: Mapping[str, Any]) -> AuditEntry:
    """Return the entry in a row of the audit."""
    named = {name: row[name] for name in AuditEntry.__struct_fields__ if name != "actions"}
    return AuditEntry(**named, actions=row["actions"].split(","))


def instance_view(instance: Instance, group: ProjectionGroup, parked: int) -> InstanceView:
    """Return an instance with its progress, and the rate of its build."""
    rate = seconds_left = None
    if instance.status == "building" and group.done:
        exact = group.done / max((datetime.now(UTC) - group.started_at).total_seconds(), 0.001)
        rate, seconds_left = round(exact, 1), round(group.left / exact, 1)
    progress = {"done": group.done, "lag": group.left, "parked": parked, "throttle": group.throttle}
    return view_of(InstanceView, instance, instance=instance.id, **progress, rate=rate, seconds_left=seconds_left)
