"""What the read models' queries answer."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from msgspec import Struct

from api.schemas.page import Page
from domain.money import dollars
from domain.ports.read_models import Instance, Parked, ProjectionGroup, Status
from domain.windows import Window


class Sums(Struct, frozen=True):
    """Sums by group, and by width of time; each item has the groups' values, the counts, and percentiles."""

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

    @classmethod
    def of(cls, window: Window, start: datetime, sums: Mapping[str, Any]) -> Self:
        """Describe a sum."""
        tokens = sums["prompt_tokens"] + sums["completion_tokens"]
        money: dict[str, Any] = {"cost_usd": dollars(sums["cost"]), "saved_usd": dollars(sums["saved_cost"])}
        named = {name: value for name, value in sums.items() if name not in {"cost", "saved_cost"}}
        return cls(window, start, tokens=tokens, **money, **named)


class AuditEntry(Struct, frozen=True):
    """A command and what it changed; or, `by` the agent, what the agent did because of it."""

    at: datetime
    thread_id: UUID
    command: UUID
    by: Literal["caller", "agent"]
    actor: str | None
    client: str | None
    correlation: str | None
    actions: Sequence[str]
    version: int
    last_version: int


class InstanceView(Struct, frozen=True, omit_defaults=True):
    """A filling of a projection's tables. `lag` counts events; rate (events a second) and time left are of a build."""

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
    """A projection: the instance that serves, the one that is built, and those that are kept."""

    name: str
    lag: int | None
    parked: int
    instances: Sequence[InstanceView]

    @classmethod
    def of(cls, name: str, instances: Sequence[InstanceView]) -> Self:
        """Describe a projection by its instances."""
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
        """Describe what is parked."""
        return cls(
            projection,
            parked.instance,
            parked.thread_id,
            parked.version,
            parked.type,
            parked.error,
            parked.attempts,
            parked.at,
        )


class Rebuilding(Struct, frozen=True):
    """Projections are being built anew."""

    projections: Sequence[str]
    line: int


class Settled(Struct, frozen=True):
    """What came of going on with a parked thread."""

    projection: str
    thread_id: UUID
    outcome: Literal["current", "parked_again"]


Standing: TypeAlias = Literal["open", "running", "waiting", "over_budget"]
"""How a thread stood at an instant: open is every one by then, and the others may be so besides."""


class Stood(Struct, frozen=True):
    """A thread that stood so at an instant, and since when it did."""

    thread_id: UUID
    since: datetime


class Instant(Struct, frozen=True, omit_defaults=True):
    """Which threads were open at an instant, ran, waited for a person, or were over budget; or one of these lists."""

    at: datetime
    open: Page[Stood] | None = None
    running: Page[Stood] | None = None
    waiting: Page[Stood] | None = None
    over_budget: Page[Stood] | None = None


def audit_entry(row: Mapping[str, Any]) -> AuditEntry:
    """Describe a row of the audit."""
    named = {name: row[name] for name in AuditEntry.__struct_fields__ if name != "actions"}
    return AuditEntry(**named, actions=row["actions"].split(","))


def instance_view(instance: Instance, group: ProjectionGroup, parked: int) -> InstanceView:
    """Describe an instance, and how fast it is being built."""
    rate = seconds_left = None
    if instance.status == "building" and group.done:
        rate = group.done / max((datetime.now(UTC) - group.started_at).total_seconds(), 0.001)
        seconds_left = group.left / rate
    return InstanceView(
        instance.id,
        instance.version,
        instance.status,
        group.done,
        group.left,
        parked,
        instance.created_at,
        group.throttle,
        round(rate, 1) if rate else None,
        round(seconds_left, 1) if seconds_left is not None else None,
    )
