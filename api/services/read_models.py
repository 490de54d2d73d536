"""Queries to the read models: lists of threads and commands, sums, and waiting until a read model is current."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from api.http.caller import Caller
from api.http.cursors import Zoned, decode_place, encode_cursor
from api.runtime.composition import ALL_SLICES, Runtime
from api.schemas.page import Page
from api.schemas.read_models import AuditEntry, Spent, Standing, Stood, Sums, audit_entry
from api.services.access_log import AccessLogService
from domain.errors import BehindLog, InvalidInput, UnknownThread
from domain.ids import Slice, Tenant, ThreadId, Version, slice_of
from domain.money import dollars
from domain.ports.read_models import Instance, SliceLag
from domain.read_models.queries import Aggregate, Bucket, Condition, Histogram, Select, Where
from domain.read_models.tables import Row, Table, indexed
from domain.recall.terms import relaxed_searches
from domain.windows import Window, start_of
from projections import budgets, status_periods, threads, turn_list
from projections.command_log import AUDIT
from projections.engine.latency_columns import latency_of, width_for
from projections.engine.projection import Projection
from projections.threads import Sort, ThreadSummary
from projections.turn_list import TurnFilters, TurnSummary

Consistency: TypeAlias = Literal["eventual", "strong"]
"""`strong`: the answer includes everything that was stored before the request."""

CONSISTENCY_TIMEOUT_S = 5.0
"""Seconds that a query waits for the read model to reach what the caller asks for."""

CONSISTENCY_POLL_S = 0.01
"""Seconds between two looks whether it has."""

MAX_SUMS = 10_000
"""Sums of an answer. More are refused: a list that lacks its end would look complete."""

MAX_COST_USD = 1_000_000
MAX_DURATION_MS = 10**15
"""The largest cost and duration that a list of turns can be filtered by."""

T = TypeVar("T")


class Filters(Struct, frozen=True):
    """Which threads a list has. `outcome` and `reason` are those of a thread's last turn."""

    status: tuple[str, ...] = ()
    outcome: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    graph: str | None = None
    search: str | None = None
    title: str | None = None
    sort: Sort = "opened_at"
    descending: bool = True
    active_since: datetime | None = None
    active_before: datetime | None = None


Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Loosened = Annotated[int, Meta(ge=0)]
"""The number of the `relaxed_searches` search that a page's threads match."""

AFTER_TIME: Any = tuple[Zoned, ThreadId, Loosened]
AFTER_NUMBER: Any = tuple[Int64, ThreadId, Loosened]
"""What a cursor of threads holds: the last thread's values of the list's order, and the search."""

AFTER_TURN: Any = tuple[Zoned, UUID, ThreadId]
AFTER_FIGURE: Any = tuple[Int64, UUID, ThreadId]
"""What a cursor of turns holds."""


class HourRange(Struct, frozen=True):
    """Which hours a sum covers, what it is grouped by, and the values that columns must have (`only`)."""

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
        self._models = runtime.log.models
        self._projections: Mapping[str, Projection] = {p.name: p for p in runtime.runner.projections}

    async def fresh(self, projection: str, *, current: bool = False) -> None:
        """Wait until a projection includes what is stored now. Raises `BehindLog`.

        `current`: an instance of an older version, which may lack columns, is not enough.
        """
        if current and (await self._serving(projection)).version != self._projections[projection].version:
            raise BehindLog(
                f"The read model {projection} is being built in a new version, which this needs. Repeat the request "
                "when /v1/projections shows that it serves."
            )
        heads = {lag.slice: lag.head for lag in await self._behind(projection, ALL_SLICES)}

        async def there() -> bool:
            behind = await self._behind(projection, heads.keys())
            return all(lag.position >= heads[lag.slice] for lag in behind)

        if heads:
            self._runtime.runner.wake()
            await _until(there)

    async def seen(self, projection: str, tenant: Tenant, thread_id: ThreadId, version: int) -> None:
        """Wait until a projection includes a version of a tenant's thread. Raises `BehindLog`, `InvalidInput`."""
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
                    f"The read model {projection} has parked this thread at version {parked.version}, which its "
                    "handler could not process: see /v1/projections/parked."
                )

    async def threads(self, filters: Filters, cursor: str | None, limit: int, caller: Caller) -> Page[ThreadSummary]:
        """List threads. The access is recorded."""
        page = await self.matching(filters, cursor, limit, caller.tenant)
        await self._access_log.record_list(caller, "list", (ThreadId(one.thread_id) for one in page.items))
        return page

    async def matching(self, filters: Filters, cursor: str | None, limit: int, tenant: Tenant) -> Page[ThreadSummary]:
        """List threads. The caller records the access. Raises `InvalidInput`."""
        of, order = ("threads", tenant, filters), filters.sort
        place = decode_place(cursor, AFTER_NUMBER if order in {"tokens", "cost"} else AFTER_TIME, of)
        page: Page[ThreadSummary] = Page([], None)
        for number, search in enumerate(relaxed_searches(filters.search) if filters.search is not None else [None]):
            if search == ():
                raise InvalidInput("search", "has only words that are too common; add one that is more specific")
            if place and number < place[-1]:
                continue
            query = threads.listing(
                tenant,
                search=search,
                conditions=_conditions(filters),
                sort=order,
                descending=filters.descending,
                after=place and place[:-1],
                limit=limit,
            )
            page = await self._page(query, of, threads.summary_of, number)
            if page.items or place:
                break
        return page

    async def thread(self, thread_id: ThreadId, caller: Caller) -> ThreadSummary:
        """Summarise a thread by its row. The access is recorded.

        Raises `UnknownThread` if there is no row, or none yet.
        """
        rows = await self._models.select(threads.one(thread_id))
        if not rows or rows[0][threads.THREADS.names.index("tenant")] != caller.tenant:
            raise UnknownThread(thread_id)
        await self._access_log.record_thread(caller, "summary", thread_id)
        return threads.summary_of(rows[0])

    async def turns(
        self, filters: TurnFilters, cursor: str | None, limit: int, caller: Caller, thread_id: ThreadId | None = None
    ) -> Page[TurnSummary]:
        """List turns, of all threads or of one. The access is recorded. Raises `InvalidInput`, `UnknownThread`."""
        _check_ranges(filters)
        if thread_id is not None:
            await self._runtime.repository.row(thread_id, caller.tenant)
        of = ("turns", caller.tenant, thread_id, filters)
        after = decode_place(cursor, AFTER_TURN if filters.sort == "created_at" else AFTER_FIGURE, of)
        query = turn_list.listing(caller.tenant, filters, thread_id=thread_id, after=after, limit=limit)
        page = await self._page(query, of, turn_list.summary_of)
        await self._access_log.record_list(caller, "list", (ThreadId(one.thread_id) for one in page.items))
        return page

    async def sums(self, name: str, tenant: Tenant, span: HourRange) -> Sums:
        """Add up what a projection counts by the hour, with percentiles of its durations. Raises `InvalidInput`."""
        table, latency = self._projections[name].tables
        keys = set(table.key) - {"tenant", "hour"}
        for key in (*span.group_by, *span.only):
            if key not in keys:
                field = "group_by" if key in span.group_by else key
                raise InvalidInput(field, f"expected some of {', '.join(sorted(keys))}, not {key!r}")
        counted = tuple(column.name for column in table.columns if column.rule == "add")
        where = (Where("tenant", "=", tenant), *_within(span, "hour"))
        adding = Aggregate(table, counted, where, span.group_by, span.bucket, limit=MAX_SUMS + 1)
        totals, spread = await asyncio.gather(
            self._models.aggregate(adding), self._models.histogram(_durations(tenant, span, latency))
        )
        if len(totals) > MAX_SUMS:
            why = f"gives more than {MAX_SUMS:,} sums: narrow from and to, take a wider bucket, or group by less"
            raise InvalidInput("bucket" if span.bucket else "group_by", why)
        durations = {tuple(group): counts for *group, counts in spread}
        heads = (("start",) if span.bucket else ()) + span.group_by
        items = []
        for row in totals:
            item = dict(zip((*heads, *counted), row, strict=True))
            for cost in ("cost", "saved_cost"):
                if cost in item:
                    item[f"{cost.removesuffix('_cost')}_usd"] = dollars(item.pop(cost))
            latency_ms = latency_of(durations.get(row[: len(heads)], {}))
            items.append({**item, "latency_ms": latency_ms and msgspec.structs.asdict(latency_ms)})
        return Sums(span.bucket, span.group_by, items)

    async def spent(
        self, tenant: Tenant, window: Window, at: datetime, by: tuple[str, ...], only: Mapping[str, Any], limit: int
    ) -> Sequence[Spent]:
        """Return what was spent in the window that contains an instant, the most expensive first."""
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
        query = Aggregate(budgets.BUDGETS, sums, tuple(where), by, limit=limit, most=("cost", "prompt_tokens"))
        rows = await self._models.aggregate(query)
        return [Spent.of(window, start, dict(zip((*by, *sums), row, strict=True))) for row in rows]

    async def at_instant(
        self, tenant: Tenant, standing: Standing, at: datetime, cursor: str | None, limit: int
    ) -> Page[Stood]:
        """List the threads that had a status at an instant, those that had it for longest first."""
        of = ("instant", tenant, standing, at)
        after = decode_place(cursor, tuple[Zoned, ThreadId], of)
        if standing == "open":
            query = threads.opened_by(tenant, at, after, limit)
        else:
            query = status_periods.at_instant(tenant, standing, at, after, limit)
        thread_id, since = (query.table.names.index(name) for name in ("thread_id", query.order[0]))
        return await self._page(query, of, lambda row: Stood(row[thread_id], row[since]))

    async def audit(
        self, tenant: Tenant, conditions: Iterable[Where], cursor: str | None, limit: int
    ) -> Page[AuditEntry]:
        """List the commands and what they changed, the latest first."""
        conditions = tuple(conditions)
        of = ("audit", tenant, conditions)
        after = decode_place(cursor, tuple[Zoned, ThreadId, UUID, Literal["caller", "agent"]], of)
        where = (Where("tenant", "=", tenant), *map(_as_indexed, conditions))
        order = ("at", "thread_id", "command", "by")
        query = Select(AUDIT, where, order, descending=True, after=after, limit=limit)
        return await self._page(query, of, lambda row: audit_entry(dict(zip(AUDIT.names, row, strict=True))))

    async def _page(self, query: Select, of: object, shown: Callable[[Row], T], *place: object) -> Page[T]:
        """Return a page of rows. Its cursor holds the last row's values of the query's order, and then `place`."""
        rows = await self._models.select(msgspec.structs.replace(query, limit=query.limit + 1))
        page = rows[: query.limit]
        if len(rows) == len(page):
            return Page([shown(row) for row in page], None)
        last = (page[-1][query.table.names.index(name)] for name in query.order)
        return Page([shown(row) for row in page], encode_cursor((*last, *place), of))

    async def _behind(self, projection: str, slices: Collection[Slice]) -> Sequence[SliceLag]:
        """Return where the serving instance is behind. If it is replaced meanwhile, the new one is looked up."""
        while True:
            group = (await self._serving(projection)).group
            behind = await self._models.behind(group, slices)
            if (await self._serving(projection)).group == group:
                return behind

    async def _serving(self, projection: str) -> Instance:
        for instance in await self._models.instances():
            if instance.projection == projection and instance.status == "serving":
                return instance
        raise BehindLog(f"The read model {projection} is being built for the first time.")


async def _until(there: Callable[[], Any]) -> None:
    try:
        async with asyncio.timeout(CONSISTENCY_TIMEOUT_S):
            while not await there():  # noqa: ASYNC110  (it may be another process that writes)
                await asyncio.sleep(CONSISTENCY_POLL_S)
    except TimeoutError:
        raise BehindLog from None


def given(*conditions: Where) -> Sequence[Where]:
    """Return the conditions that have a value: neither None nor an empty tuple."""
    return [one for one in conditions if one.value is not None and one.value != ()]


def _conditions(filters: Filters) -> Sequence[Condition]:
    return given(
        Where("status", "in", filters.status),
        Where("last_outcome", "in", filters.outcome),
        Where("last_reason", "in", filters.reason or _implied(filters.outcome)),
        Where("graph", "=", filters.graph),
        Where("title", "begins", filters.title),
        Where("last_event_at", ">=", filters.active_since),
        Where("last_event_at", "<", filters.active_before),
    )


def _check_ranges(filters: TurnFilters) -> None:
    for least, most, begin, end in (
        (filters.created_since, filters.created_before, "created_since", "created_before"),
        (filters.min_cost, filters.max_cost, "min_cost_usd", "max_cost_usd"),
        (filters.min_duration_ms, filters.max_duration_ms, "min_duration_ms", "max_duration_ms"),
    ):
        if least is not None and most is not None and most < least:  # type: ignore[operator]  # both are of one kind
            raise InvalidInput(end, f"must not be before {begin}" if begin == "created_since" else f"is below {begin}")


def _implied(outcomes: Iterable[str]) -> tuple[str, ...]:
    """Return the reasons of outcomes, to use the index on reasons. Nothing if one of them can lack a reason."""
    always = {"failed", "cancelled"}
    return tuple(reason for name in outcomes for reason in threads.REASONS_OF[name]) if always >= {*outcomes} else ()


def _within(span: HourRange, column: str) -> Iterable[Condition]:
    ends = (Where(column, ">=", span.since), Where(column, "<", span.until))
    return map(_as_indexed, given(*ends, *(Where(name, "=", value) for name, value in span.only.items())))


def _as_indexed(condition: Where) -> Where:
    """Shorten a long name as keys and indexes do."""
    if condition.operator == "=" and isinstance(condition.value, str):
        return Where(condition.column, "=", indexed(condition.value))
    return condition


def _durations(tenant: Tenant, span: HourRange, table: Table) -> Histogram:
    """Query counts of durations. Counts that have the bucket's width already are not put into buckets again."""
    width = width_for(span.bucket, span.since, span.until)
    where = (Where("tenant", "=", tenant), Where("width", "=", width), *_within(span, "start"))
    group_by, bucket = (("start", *span.group_by), None) if span.bucket == width else (span.group_by, span.bucket)
    return Histogram(table, "bucket", "durations", where, group_by, bucket, at="start", limit=MAX_SUMS + 1)
