"""Durations as counts in buckets, so that hours, models and graphs can be put together and give percentiles still.

Bounds grow by 2^(1/8): a percentile is right to within 4.5 %. Bucket b holds milliseconds up to 2^(b/8).
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from domain.tables import Column, Index, Table

PER_DOUBLING = 8


class Latency(Struct, frozen=True):
    """Milliseconds below which half, 95 % and 99 % of some durations lie."""

    p50: float
    p95: float
    p99: float


def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a duration."""
    return 0 if milliseconds <= 1 else math.ceil(PER_DOUBLING * math.log2(milliseconds))


def latency_of(counts: Mapping[int, int]) -> Latency | None:
    """Compute percentiles from counts by bucket; None without any."""
    total = sum(counts.values())
    if not total:
        return None
    ordered = sorted(counts.items())
    return Latency(*(_percentile(ordered, math.ceil(total * share)) for share in (0.50, 0.95, 0.99)))


def _percentile(ordered: Sequence[tuple[int, int]], rank: int) -> float:
    """Find the bucket with the duration of a rank, and return its middle."""
    seen = 0
    for bucket, count in ordered:
        seen += count
        if seen >= rank:
            return round(2 ** ((bucket - 0.5) / PER_DOUBLING), 1) if bucket else 1.0
    raise ValueError("there are fewer durations than that")


def latency_table(name: str, about: str, groups: Sequence[str]) -> Table:
    """Make the table of counts that belongs to a read model with these groups."""
    return Table(
        name,
        about,
        (
            Column("tenant", "text", "key"),
            Column("hour", "timestamptz", "key", "The hour that they ended in."),
            *(Column(group, "text", "key") for group in groups),
            Column("bucket", "integer", "key", "Durations of up to 2^(bucket/8) milliseconds."),
            Column("durations", "bigint", "add", "How many there were."),
        ),
        (Index(("tenant", "hour")),),
    )
