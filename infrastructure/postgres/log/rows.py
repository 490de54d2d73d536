"""Converts rows to the domain's values."""

from collections.abc import Iterable
from typing import Any

import asyncpg

from domain.log.hash_chain import Head, Record
from domain.ports.log import ThreadRow
from domain.ports.snapshots import Snapshot


def record_of(row: Iterable[Any]) -> Record:
    """Build a record from the columns of READ, which are in the order of its fields."""
    return Record(*row)


def head_of(row: asyncpg.Record) -> Head:
    """Build a head from a row of threads or snapshots."""
    return Head(row["version"], row["hash"], row["at"])


def thread_of(row: asyncpg.Record) -> ThreadRow:
    """Build a thread from a row of threads."""
    return ThreadRow(
        row["tenant"], row["thread_id"], head_of(row), row["opened_at"], row["in_turn"], row["waiting"], row["base"]
    )


def snapshot_of(row: asyncpg.Record) -> Snapshot:
    """Build a snapshot from a row of snapshots."""
    return Snapshot(row["tenant"], row["thread_id"], head_of(row), row["fingerprint"], row["state"])
