"""Queries to the read models: the part of the service that lists, adds up, and looks after the projections."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from api.http.caller import Caller
from api.http.params import decode_cursor, encode_cursor, in_utc, no_page
from api.runtime.composition import Runtime
from api.schemas.page import Page
from api.schemas.read_models import AuditEntry, Spent, Standing, Stood, Sums, audit_entry
from api.services.access_log import AccessLogService
from domain.errors import BehindLog, InvalidInput, UnknownThread
from domain.ids import SLICES, Slice, Tenant, ThreadId, Version, slice_of
from domain.ports.read_models import Instance, SliceLag
from domain.read_models.queries import Aggregate, Bucket, Condition, Histogram, Select, Where
from domain.read_models.tables import Row, Table, indexed
from domain.recall.terms import loosened
from domain.windows import Window, start_of
from projections import budgets, status_periods, threads
from projections.command_log import AUDIT
from projections.engine.latency_columns import latency_of, width_for
from projections.engine.projection import Projection
from projections.threads import Sort, ThreadSummary

Consistency: TypeAlias = Literal["eventual", "strong"]
"""`strong`: the answer knows everything that was stored when it was asked for."""

PATIENCE = 5.0
"""Seconds that a query waits for the read model to see what it asks for."""

LOOK = 0.01
"""Seconds between two looks whether it has."""

MOST = 10_000
"""Sums of an answer: more are refused, since an answer that leaves out the latest would pass for a whole one."""

T = TypeVar("T")


class Filters(Struct, frozen=True):
    """Which threads a list has. `outcome` and `reason` are those of a thread's last turn."""

    status: tuple[str, ...] = ()
    graph: str | None = None
    search: str | None = None
    title: str | None = None
    active_since: datetime | None = None
    active_before: datetime | None = None
    sort: Sort = "opened_at"
    descending: bool = True
    outcome: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()


class ThreadListCursor(Struct, frozen=True):
    """Where a page of threads ended, and which of the `loosened` searches they fit to."""

    sort: Sort
    descending: bool
    value: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[datetime, Meta(tz=True)]
    thread_id: ThreadId
    loosened: Annotated[int, Meta(ge=0)] = 0


Zoned = Annotated[datetime, Meta(tz=True)]


class InstantCursor(Struct, frozen=True, array_like=True):
    """Where a page of an instant's threads ended."""

    standing: Standing
    at: Zoned
    since: Zoned
    thread_id: ThreadId


class CommandLogCursor(Struct, frozen=True, array_like=True):
    """Where a page of the audit ended."""

    at: Annotated[datetime, Meta(tz=True)]
    thread_id: ThreadId
    command: UUID
    by: Literal["caller", "agent"]


class HourRange(Struct, frozen=True):
    """Which hours a sum is over, what it is grouped by, and what it leaves out."""

    since: datetime | None = None
    until: datetime | None = None
    bucket: Bucket | None = None
    group_by: tuple[str, ...] = ()
    only: Mapping[str, str] = {}


class ReadModelQueries:
    """Answers queries from the read models."""

    def __init__(self, runtime: Runtime, access_log: AccessLogService) -> None:
        """Work with what the composition root has joined."""
        self._runtime = runtime
        self._access_log = access_log
        self._models = runtime.models
        self._projections: Mapping[str, Projection] = {p.name: p for p in runtime.runner.projections}

    async def fresh(self, projection: str) -> None:
        """Wait until a projection has seen what is stored now. Raises `BehindLog`."""
        aims = {slot.slice: slot.head for slot in await self._behind(projection, ALL)}

        async def there() -> bool:
            behind = await self._behind(projection, aims.keys())
            return all(slot.position >= aims[slot.slice] for slot in behind)

        if aims:
            self._runtime.runner.wake()
            await _until(there)

    async def seen(self, projection: str, tenant: Tenant, thread_id: ThreadId, version: int) -> None:
        """Wait until a projection has seen a version of a tenant's thread. Raises `BehindLog`, `InvalidInput`."""
        store, slice_ = self._runtime.repository.store, slice_of(thread_id)
        row = await store.thread(thread_id)
        if row is None or row.tenant != tenant or version > row.head.version:
            raise InvalidInput("min_version", f"the thread {thread_id} has no version {version}")
        if version <= row.base:
            return
        (record,) = await store.read(thread_id, Version(version - 1), Version(version))
        self._runtime.runner.wake()
        await _until(lambda: self._models.reached(projection, slice_, record.position))
        for parked in await self._models.parked([(await self._serving(projection)).id], [slice_]):
            if parked.thread_id == thread_id and parked.version <= version:
                raise BehindLog(
                    f"The read model {projection} leaves this thread out since version {parked.version}, which it "
                    "could not take: see /v1/projections/parked."
                )

    async def threads(self, filters: Filters, cursor: str | None, limit: int, caller: Caller) -> Page[ThreadSummary]:
        """List threads. The access is recorded."""
        tenant = caller.tenant
        of = ("threads", tenant, filters)
        place = decode_cursor(cursor, ThreadListCursor, of) if cursor is not None else None
        if place and (place.sort, place.descending) != (filters.sort, filters.descending):
            raise no_page()
        after = (_sorted_value(place), place.thread_id) if place else None
        rows: Sequence[Row] = ()
        number = 0
        for number, search in enumerate(loosened(filters.search) if filters.search is not None else [None]):
            if search == ():
                raise InvalidInput("search", "has only words that are too common to look for; add one that says more")
            if place and number < place.loosened:
                continue
            query = threads.listing(
                tenant,
                search=search,
                conditions=_conditions(filters),
                sort=filters.sort,
                descending=filters.descending,
                after=after,
                limit=limit + 1,
            )
            rows = await self._models.select(query)
            if rows or place:
                break
        shown = [threads.summary_of(row) for row in rows[:limit]]
        await self._access_log.record_threads(caller, "list", (ThreadId(one.thread_id) for one in shown))
        if len(rows) <= limit:
            return Page(shown, None)
        value = rows[limit - 1][threads.THREADS.names.index(filters.sort)]
        return Page(
            shown,
            encode_cursor(ThreadListCursor(filters.sort, filters.descending, value, shown[-1].thread_id, number), of),
        )

    async def thread(self, thread_id: ThreadId, caller: Caller) -> ThreadSummary:
        """Summarise a thread by its row. The access is recorded.

        Raises `UnknownThread` if there is no row, or none yet.
        """
        rows = await self._models.select(threads.one(thread_id))
        if not rows or rows[0][threads.THREADS.names.index("tenant")] != caller.tenant:
            raise UnknownThread(thread_id)
        await self._access_log.record_thread(caller, "summary", thread_id)
        return threads.summary_of(rows[0])

    async def sums(self, name: str, tenant: Tenant, span: HourRange) -> Sums:
        """Add up what a projection counts by the hour, with percentiles of its durations. Raises `InvalidInput`."""
        projection = self._projections[name]
        table, latency = projection.tables
        counted = tuple(column.name for column in table.columns if column.rule == "add")
        where = _hours(tenant, span, table)
        adding = Aggregate(table, counted, where, span.group_by, span.bucket, limit=MOST + 1)
        totals, spread = await asyncio.gather(
            self._models.aggregate(adding), self._models.histogram(_durations(tenant, span, latency))
        )
        counts = {tuple(group): durations for *group, durations in spread}
        heads = (("start",) if span.bucket else ()) + span.group_by
        items = [
            _item(heads, counted, row, latency_of(counts.get(row[: len(heads)], {}))) for row in _whole(totals, span)
        ]
        return Sums(span.bucket, span.group_by, items)

    async def spent(
        self,
        tenant: Tenant,
        window: Window,
        at: datetime,
        by: tuple[str, ...],
        only: Mapping[str, Any],
        limit: int = 1_000,
    ) -> Sequence[Spent]:
        """Say what was spent in the window that an instant lies in, the most expensive first."""
        start = start_of(window, at)
        where: list[Condition] = [
            Where("tenant", "=", tenant),
            Where("window", "=", window),
            Where("start", "=", start),
        ]
        if "thread_id" in only:
            where.append(Where("slice", "=", slice_of(only["thread_id"])))
        where += [_as_indexed(Where(name, "=", value)) for name, value in only.items()]
        sums = ("calls", "prompt_tokens", "completion_tokens", "cost", "saved_tokens", "saved_cost", "cached_tokens")
        most = ("cost", "prompt_tokens")
        query = Aggregate(budgets.BUDGETS, sums, tuple(where), by, limit=limit, most=most)
        rows = await self._models.aggregate(query)
        return [Spent.of(window, start, dict(zip((*by, *sums), row, strict=True))) for row in rows]

    async def at_instant(
        self, tenant: Tenant, standing: Standing, at: datetime, cursor: str | None, limit: int
    ) -> Page[Stood]:
        """List the threads that stood so at an instant, those that had for longest first."""
        of = ("instant", tenant, standing, at)
        mark = decode_cursor(cursor, InstantCursor, of) if cursor is not None else None
        if mark and (mark.standing, mark.at) != (standing, at):
            raise no_page()
        after = (mark.since, mark.thread_id) if mark else None
        if standing == "open":
            query, since = threads.opened_by(tenant, at, after, limit + 1), "opened_at"
        else:
            query, since = status_periods.at_instant(tenant, standing, at, after, limit + 1), "since"
        places = [query.table.names.index(name) for name in ("thread_id", since)]
        rows = await self._models.select(query)
        shown = [Stood(*(row[place] for place in places)) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(shown, None)
        return Page(
            shown, encode_cursor(InstantCursor(standing, at, shown[-1].since, ThreadId(shown[-1].thread_id)), of)
        )

    async def audit(
        self, tenant: Tenant, conditions: Iterable[Condition], cursor: str | None, limit: int
    ) -> Page[AuditEntry]:
        """List who did what, the last first."""
        conditions = tuple(conditions)
        of = ("audit", tenant, conditions)
        place = decode_cursor(cursor, CommandLogCursor, of) if cursor is not None else None
        after = (in_utc(place.at, "cursor"), place.thread_id, place.command, place.by) if place else None
        order = ("at", "thread_id", "command", "by")
        where = (Where("tenant", "=", tenant), *map(_as_indexed, conditions))
        rows = await self._models.select(Select(AUDIT, where, order, descending=True, after=after, limit=limit + 1))
        shown = [audit_entry(dict(zip(AUDIT.names, row, strict=True))) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(shown, None)
        last = shown[-1]
        return Page(
            shown, encode_cursor(CommandLogCursor(last.at, ThreadId(last.thread_id), last.command, last.by), of)
        )

    async def _behind(self, projection: str, slices: Collection[Slice]) -> Sequence[SliceLag]:
        """Say where that which serves is behind. A line that is gone is behind nowhere: only one that serves counts."""
        while True:
            line = (await self._serving(projection)).line
            behind = await self._models.behind(line, slices)
            if (await self._serving(projection)).line == line:
                return behind

    async def _serving(self, projection: str) -> Instance:
        for instance in await self._models.instances():
            if instance.projection == projection and instance.status == "serving":
                return instance
        raise BehindLog(f"The read model {projection} is being built for the first time.")


ALL: Collection[Slice] = [Slice(number) for number in range(SLICES)]


async def _until(there: Callable[[], Any]) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await there():  # noqa: ASYNC110  (it may be another process that writes)
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise BehindLog from None


def _conditions(filters: Filters) -> Iterable[Condition]:
    if filters.status:
        yield Where("status", "in", filters.status)
    if filters.outcome:
        yield Where("last_outcome", "in", filters.outcome)
    reasons = filters.reason or _implied(filters.outcome)
    if reasons:
        yield Where("last_reason", "in", reasons)
    if filters.graph is not None:
        yield Where("graph", "=", filters.graph)
    if filters.title is not None:
        yield Where("title", "begins", filters.title)
    if filters.active_since is not None:
        yield Where("last_event_at", ">=", filters.active_since)
    if filters.active_before is not None:
        yield Where("last_event_at", "<", filters.active_before)


def _implied(outcomes: Iterable[str]) -> tuple[str, ...]:
    """Return the reasons of outcomes that always have one: the index is by them. Nothing if some have none."""
    always = {"failed", "cancelled"}
    return tuple(reason for name in outcomes for reason in threads.REASONS_OF[name]) if always >= {*outcomes} else ()


def _hours(tenant: Tenant, span: HourRange, table: Table) -> tuple[Condition, ...]:
    keys = set(table.key) - {"tenant", "hour"}
    for name in (*span.group_by, *span.only):
        if name not in keys:
            field = "group_by" if name in span.group_by else name
            raise InvalidInput(field, f"expected some of {', '.join(sorted(keys))}, not {name!r}")
    return (Where("tenant", "=", tenant), *_within(span, "hour"))


def _within(span: HourRange, column: str) -> Iterable[Condition]:
    if span.since is not None:
        yield Where(column, ">=", span.since)
    if span.until is not None:
        yield Where(column, "<", span.until)
    yield from (_as_indexed(Where(name, "=", value)) for name, value in span.only.items())


def _as_indexed(condition: Condition) -> Condition:
    """Look for a long name as keys and indexes have it."""
    if isinstance(condition, Where) and condition.operator == "=" and isinstance(condition.value, str):
        return Where(condition.column, "=", indexed(condition.value))
    return condition


def _durations(tenant: Tenant, span: HourRange, table: Table) -> Histogram:
    """Ask for counts of durations; those of just this width need not be put into buckets."""
    width = width_for(span.bucket, span.since, span.until)
    where = (Where("tenant", "=", tenant), Where("width", "=", width), *_within(span, "start"))
    group_by, bucket = (("start", *span.group_by), None) if span.bucket == width else (span.group_by, span.bucket)
    return Histogram(table, "bucket", "durations", where, group_by, bucket, at="start", limit=MOST + 1)


def _whole(rows: Sequence[Row], span: HourRange) -> Sequence[Row]:
    """Refuse an answer that is cut off, by the name of what makes it so long."""
    if len(rows) > MOST:
        why = f"gives more than {MOST:,} sums: narrow from and to, take a wider bucket, or group by less"
        raise InvalidInput("bucket" if span.bucket else "group_by", why)
    return rows


def _item(heads: Sequence[str], counted: Sequence[str], row: Sequence[Any], latency: Any) -> Mapping[str, Any]:
    item = dict(zip((*heads, *counted), row, strict=True))
    for name in ("cost", "saved_cost"):
        if name in item:
            item[f"{name.removesuffix('_cost')}_usd"] = item.pop(name) / 10**12
    item["latency_ms"] = msgspec.structs.asdict(latency) if latency else None
    return item


def _sorted_value(place: ThreadListCursor) -> int | datetime:
    timed = place.sort in {"opened_at", "last_event_at"}
    if isinstance(place.value, datetime) != timed:
        raise no_page()
    return in_utc(place.value, "cursor") if isinstance(place.value, datetime) else place.value
