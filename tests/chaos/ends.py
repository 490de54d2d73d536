"""What became of turns, read from the log itself: services may be down, the log says what happened."""

import asyncio
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from tests.chaos.client import Begun

ENDS = ("TurnCompleted", "TurnFailed", "TurnCancelled", "TurnRolledBack")

LOOK = 0.25
"""Seconds between two looks at the log."""


@dataclass(frozen=True)
class Recorded:
    """An event, as it is stored."""

    version: int
    type: str
    data: Mapping[str, Any]


@dataclass
class Ends:
    """The ends of turns, with the time at which each was seen first, by the monotonic clock."""

    url: str
    seen: dict[str, float] = field(default_factory=dict)
    ends: dict[str, Recorded] = field(default_factory=dict)
    """By turn."""

    async def watch(self) -> None:
        """Look at the log until this is cancelled. While the database is away, nothing is seen."""
        statement = "SELECT version, type, payload::text FROM events WHERE type = ANY($1)"
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self.url, timeout=10)
                try:
                    while True:
                        self._note(await connection.fetch(statement, ENDS, timeout=10))
                        await asyncio.sleep(LOOK)
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOK)

    async def wait(self, turns: Collection[Begun], within: float) -> list[Begun]:
        """Wait for the ends of turns; return those that did not end in so many seconds."""
        deadline = time.monotonic() + within
        while (open_ := [one for one in turns if one.turn_id not in self.ends]) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)
        return open_

    def took(self, turn: Begun) -> float | None:
        """Return the seconds from asking for a turn to its end; None if it has not ended."""
        seen = self.seen.get(turn.turn_id)
        return None if seen is None else seen - turn.asked_at

    def _note(self, rows: Iterable[asyncpg.Record]) -> None:
        for version, type_, payload in rows:
            data = json.loads(payload)
            if data["turn_id"] not in self.ends:
                self.ends[data["turn_id"]] = Recorded(version, type_, data)
                self.seen[data["turn_id"]] = time.monotonic()

    def not_completed(self, turns: Iterable[Begun]) -> list[str]:
        """List the turns that ended otherwise than by completing."""
        return [
            f"{described(turn)} ended with {end.type}: {end.data.get('reason')}, {end.data.get('detail')}"
            for turn in turns
            if (end := self.ends.get(turn.turn_id)) and end.type != "TurnCompleted"
        ]


def described(turn: Begun) -> str:
    """Name a turn in a report."""
    return f"{turn.graph} {turn.text!r} ({turn.durability}, {turn.thread_id})"


async def stories(url: str, turns: Iterable[Begun]) -> Mapping[UUID, Sequence[Recorded]]:
    """Read all events of the turns' threads."""
    found: dict[UUID, list[Recorded]] = {turn.thread_id: [] for turn in turns}
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT thread_id, version, type, payload::text FROM events WHERE thread_id = ANY($1) ORDER BY version",
            list(found),
        )
    finally:
        await connection.close()
    for thread_id, version, type_, payload in rows:
        found[thread_id].append(Recorded(version, type_, json.loads(payload)))
    return found
