"""How many times better one contestant is than another: in each pair, and over all pairs."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from benchmarks.side_by_side.alternate import Played

Better: TypeAlias = Literal["more", "less"]


@dataclass(frozen=True)
class Figure:
    """One of the figures that contestants tell: what a table calls it, and whether more or less of it is better."""

    key: str
    heading: str
    better: Better = "more"
    digits: int = 0

    def shown(self, value: float) -> str:
        """Write a value as tables do."""
        return f"{value:,.{self.digits}f}"


@dataclass(frozen=True)
class Ratio:
    """How many times better: above 1 for ours, below 1 for the other. One value a pair, their median and range."""

    pairs: Sequence[float]
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as `2.10 (1.95 to 2.31)`."""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        return asdict(self)


def ratio_of(ours: Sequence[float], theirs: Sequence[float], better: Better) -> Ratio | None:
    """Compare pair by pair. None if a pair cannot be divided."""
    pairs = list(zip(ours, theirs, strict=True) if better == "more" else zip(theirs, ours, strict=True))
    if not pairs or any(below == 0 for _, below in pairs):
        return None
    ratios = [above / below for above, below in pairs]
    return Ratio(ratios, statistics.median(ratios), min(ratios), max(ratios))


def ratio(played: Played, rival: str, figure: Figure, ours: str | None = None) -> Ratio | None:
    """Compare one of ours, the first if none is named, with a rival by one figure. None if not both tell it."""
    one = ours or played.ours[0]
    if not all(played.tells(name, figure.key) for name in (one, rival)):
        return None
    return ratio_of(played.values(one, figure.key), played.values(rival, figure.key), figure.better)
