"""Which fold made a snapshot: a digest over the source of everything that folding depends on."""

import hashlib
import inspect
from functools import cache

from domain import (
    chat,
    checkpoints,
    events,
    evolve,
    evolve_turn,
    ids,
    json,
    live_window,
    repeats,
    state,
    upcasters,
    usage,
    windows,
)

FOLDING = (
    ids,
    json,
    chat,
    windows,
    events,
    upcasters,
    repeats,
    state,
    usage,
    live_window,
    evolve_turn,
    evolve,
    checkpoints,
)
"""The modules that folding depends on, and what snapshots hold."""


@cache
def fold_fingerprint() -> str:
    """Return 16 hexadecimal digits that change whenever the fold's source does, be it by a comment only."""
    source = "".join(inspect.getsource(module) for module in FOLDING)
    return hashlib.sha256(source.encode()).hexdigest()[:16]
