"""Appends with the library `eventsourcing`: its recorder for PostgreSQL, a thread of Python for each stream.

An application's recorder orders all events, as ours does; an aggregate's does not. An event's payload and metadata are
its state, as bytes. The pool has a connection for each thread. `--functions 1` has the database's functions insert.
"""

import argparse
import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import AggregateRecorder, StoredEvent
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresApplicationRecorder, PostgresDatastore

from benchmarks import append_load
from benchmarks.assistant_turns import drafts
from benchmarks.side_by_side.figures import Figures, options, say
from domain.log.hash_chain import Draft

RECORDERS = {"aggregate": PostgresAggregateRecorder, "application": PostgresApplicationRecorder}


def datastore(url: str, connections: int, *, functions: bool) -> PostgresDatastore:
    """Connect as its documentation says."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return PostgresDatastore(
        parts.path.lstrip("/"),
        query.get("host", [parts.hostname or "localhost"])[0],
        query.get("port", [parts.port or 5432])[0],
        parts.username or "postgres",
        parts.password or "",
        pool_size=connections,
        enable_db_functions=functions,
        connect_timeout=30,
    )


def appended(recorder: AggregateRecorder, source: Iterator[Sequence[Draft]], until: float) -> int:
    """Append to a new stream; count the events."""
    stream, version = uuid4(), 0
    while time.perf_counter() < until:
        events = [
            StoredEvent(stream, version + number, draft.type, f"{draft.payload}\n{draft.metadata}".encode())
            for number, draft in enumerate(next(source), 1)
        ]
        recorder.insert_events(events)
        version += len(events)
    return version


def cell(recorder: AggregateRecorder, batch: int, streams: int, seconds: float) -> append_load.Cell:
    """Append from so many threads at a time."""
    events, until, counts = drafts(), time.perf_counter() + seconds, []
    lists = [*itertools.islice(append_load.batches(batch, events), len(events))]

    def work() -> None:
        counts.append(appended(recorder, itertools.cycle(lists), until))

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return append_load.Cell(sum(counts), time.perf_counter() - began)


def written(url: str) -> int:
    """Count the transactions that have written."""

    async def ask() -> int:
        connection = await asyncpg.connect(url)
        found: int = await connection.fetchval(append_load.WRITTEN)
        await connection.close()
        return found

    return asyncio.run(ask())


def main(arguments: argparse.Namespace) -> Figures:
    figures, url, meter = Figures(), arguments.database, append_load.Meter(arguments)
    with datastore(url, max(arguments.streams), functions=bool(arguments.functions)) as store:
        recording = RECORDERS[arguments.recorder](store)
        recording.create_table()
        for batch, streams in append_load.cells(arguments):
            cell(recording, batch, streams, append_load.WARM_UP)
            meter.start(written(url))
            found = cell(recording, batch, streams, arguments.seconds)
            figures |= meter.result(batch, streams, found, written(url))
    return figures


if __name__ == "__main__":
    say(main(options(**append_load.OPTIONS, recorder=str, functions=int)))
