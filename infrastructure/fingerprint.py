"""Which fold made a snapshot: a digest over the source of everything that folding depends on."""

import hashlib
import inspect
from functools import cache

from domain import ids, json, windows
from domain.models import chat
from domain.thread import events, evolve, evolve_turn, repeated_calls, snapshot, state, upcasters, usage, window_edits

FOLDING = (
    ids,
    json,
    chat,
    windows,
    events,
    upcasters,
    repeated_calls,
    state,
    usage,
    window_edits,
    evolve_turn,
    evolve,
    snapshot,
)
"""The modules that folding depends on, and what snapshots hold."""


@cache
def fold_fingerprint() -> str:
    """Return 16 hexadecimal digits that change whenever the fold's source does, be it by a comment only."""
    source = "".join(inspect.getsource(module) for module in FOLDING)
    return hashlib.sha256(source.encode()).hexdigest()[:16]
