"""Durations as counts in buckets, which can be added up over hours, models and graphs and still give percentiles.

Bounds grow by 2^(1/8), so a percentile is right to within 4.5 %. Bucket b holds milliseconds up to 2^(b/8). Each
duration is counted in its hour and in its day. So the counts of a month are in the rows of 30 days, not of 720 hours.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from domain.read_models.queries import Bucket
from domain.read_models.tables import Change, Column, Table
from domain.windows import start_of
from projections.engine.projection import EventContext

Width: TypeAlias = Literal["hour", "day"]

PER_DOUBLING = 8
"""Buckets from a duration to its double."""


class Latency(Struct, frozen=True):
    """Percentiles of durations, in milliseconds."""

    p50: float
    p95: float
    p99: float


@lru_cache(maxsize=10_000)
def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a duration."""
    return 0 if milliseconds <= 1 else math.ceil(PER_DOUBLING * math.log2(milliseconds))


def latency_of(counts: Mapping[int, int]) -> Latency | None:
    """Compute percentiles from counts by bucket; None without any."""
    if not counts:
        return None
    buckets = sorted(counts)
    upto = list(accumulate(map(counts.__getitem__, buckets)))
    ranks = (math.ceil(upto[-1] * share) for share in (0.50, 0.95, 0.99))
    return Latency(*(_middle(buckets[bisect_left(upto, rank)]) for rank in ranks))


@cache
def _middle(bucket: int) -> float:
    """Return a bucket's middle, in milliseconds."""
    return round(2 ** ((bucket - 0.5) / PER_DOUBLING), 1) if bucket else 1.0


WIDTHS: tuple[Width, ...] = ("hour", "day")


def latency_table(name: str, about: str, groups: Sequence[str]) -> Table:
    """Return the table of duration counts for a read model that is grouped by these columns."""
    return Table(
        name,
        about,
        (
            Column("tenant", "text", "key"),
            Column("width", "text", "key", "hour or day: each duration is counted once in either."),
            Column("start", "timestamptz", "key", "The hour or the day that they ended in."),
            *(Column(group, "text", "key") for group in groups),
            Column("bucket", "integer", "key", "Durations of up to 2^(bucket/8) milliseconds."),
            Column("durations", "bigint", "add", "How many there were."),
        ),
    )


def timed(table: Table, context: EventContext[Any], milliseconds: int, *groups: str) -> Sequence[Change]:
    """Return the rows that count a duration. `groups` are values for the groups of `latency_table`."""
    tenant, starts, bucket, row = context.tenant, context.starts, bucket_of(milliseconds), table.row
    return [(table, row(tenant, width, starts[width], *groups, bucket, 1)) for width in WIDTHS]


def width_for(bucket: Bucket | None, since: datetime | None, until: datetime | None) -> Width:
    """Return which counts to add up for a range of time: those of days, if the range is made of whole days."""
    whole_days = all(at is None or at == start_of("day", at) for at in (since, until))
    return "day" if bucket != "hour" and whole_days else "hour"
