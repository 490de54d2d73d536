"""Durations as counts in buckets, so that hours, models and graphs can be put together and give percentiles still.

Bounds grow by 2^(1/8): a percentile is right to within 4.5 %. Bucket b holds milliseconds up to 2^(b/8). Each duration
is counted in its hour and in its day: a month's are then in a few rows, and not in those of 720 hours.
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


class Latency(Struct, frozen=True):
    """Milliseconds below which half, 95 % and 99 % of some durations lie."""

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
    """Return the duration that stands for a bucket."""
    return round(2 ** ((bucket - 0.5) / PER_DOUBLING), 1) if bucket else 1.0


WIDTHS: tuple[Width, ...] = ("hour", "day")


def latency_table(name: str, about: str, groups: Sequence[str]) -> Table:
    """Make the table of counts that belongs to a read model with these groups."""
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
    """Count a duration, in the groups of `latency_table`."""
    tenant, starts, bucket, row = context.tenant, context.starts, bucket_of(milliseconds), table.row
    return [(table, row(tenant, width, starts[width], *groups, bucket, 1)) for width in WIDTHS]


def width_for(bucket: Bucket | None, since: datetime | None, until: datetime | None) -> Width:
    """Say which counts tell of a stretch of time: those of days, if it is made of whole ones."""
    whole_days = all(at is None or at == start_of("day", at) for at in (since, until))
    return "day" if bucket != "hour" and whole_days else "hour"
