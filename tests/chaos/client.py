"""A client that goes on asking, as a careful caller would, and keeps what it was answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

PAUSE = 0.2
"""Seconds between two attempts."""


AT_ONCE = 20
"""Probes that may be under way."""


@dataclass(frozen=True)
class Begun:
    """A turn that some process has accepted: in a thread of its own, named by what it is to do."""

    thread_id: UUID
    turn_id: str
    graph: str
    text: str
    asked_at: float
    """When it was first asked for, by the monotonic clock."""
    durability: str = "sync"


@dataclass
class Client:
    """Asks one of several servers after the other, each request on a connection of its own."""

    urls: list[str]
    timeout: float = 10.0
    statuses: Counter[int] = field(default_factory=Counter)
    """How often each status was answered."""
    errors: list[str] = field(default_factory=list)
    """Answers that no caller should ever get: 500."""
    _next: int = 0

    async def begin(self, graph: str, text: str, within: float, durability: str = "sync") -> Begun | None:
        """Say something in a new thread, until it is accepted. None: it was not, in so many seconds."""
        asked, thread_id = time.monotonic(), uuid4()
        body = {"thread_id": str(thread_id), "graph": graph, "user_input": text, "durability": durability}
        headers = {"Idempotency-Key": "begin"}
        accepted = None
        while accepted is None:
            response = await self.request("POST", "/v1/agent/invoke", json=body, headers=headers)
            if response is not None and response.is_success:
                accepted = response.json()
            elif time.monotonic() - asked > within:
                return None
            else:
                await asyncio.sleep(PAUSE)
        return Begun(thread_id, accepted["turn_id"], graph, text, asked, durability)

    async def request(self, method: str, path: str, **how: Any) -> httpx.Response | None:
        """Ask the next server once. None: there was no answer."""
        self._next += 1
        url = self.urls[self._next % len(self.urls)]
        # A connection that is kept would stay with a process that is blocked; certificates take time to load.
        settings: dict[str, Any] = {"limits": httpx.Limits(max_keepalive_connections=0), "verify": False}
        timeout = how.pop("timeout", self.timeout)
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, **settings) as client:
                response = await client.request(method, path, **how)
            self.statuses[response.status_code] += 1
            if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
                self.errors.append(f"{method} {path} was answered with 500: {response.text[:300]}")
            return response
        return None


@dataclass
class Prober:
    """Asks all the time whether the service is there: whether it answers, and whether a new turn runs to its end."""

    client: Client
    live: list[tuple[float, bool]] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    """For how long each turn was asked for that nobody accepted."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, pause: float = 0.5, patience: float = 60.0) -> None:
        """Probe until this is cancelled."""
        try:
            while True:
                probes = [self._ask_live()]
                if len(self._tasks) < AT_ONCE:  # where no turn is accepted any more, these few say so
                    probes.append(self._begin(patience))
                for probe in probes:
                    task = asyncio.create_task(probe)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(pause)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask_live(self) -> None:
        asked = time.monotonic()
        response = await self.client.request("GET", "/health/live", timeout=5)
        self.live.append((asked, response is not None and response.is_success))

    async def _begin(self, patience: float) -> None:
        asked = time.monotonic()
        begun = await self.client.begin("quick", "probe", patience)
        if begun is None:
            self.refused.append(time.monotonic() - asked)
        else:
            self.begun.append(begun)

    def longest_silence(self) -> float:
        """Return the seconds between two answers to "are you live?", at most."""
        return longest_gap(self.live)


def longest_gap(asked: Sequence[tuple[float, bool]]) -> float:
    """Return the longest time without an answer: `asked` says when, and whether it was answered."""
    if not asked:
        return 0.0
    ordered = sorted(asked)
    last, longest = ordered[0][0], 0.0
    for at, answered in ordered:
        longest = max(longest, at - last)
        if answered:
            last = at
    return longest
