"""Answers about the service: its workers and its health."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct


class WorkerView(Struct, frozen=True):
    """A process that runs turns, with its shards."""

    worker_id: UUID
    name: str
    started_at: datetime
    seen_at: datetime
    standby: bool
    shards: Sequence[int]


class Health(Struct, frozen=True, omit_defaults=True):
    """Whether the process is alive, and whether it can serve."""

    status: Literal["alive", "ready", "unready"]
    detail: str | None = None
