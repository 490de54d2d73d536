"""An import looks at a slice's threads some at a time, and at each of them once."""

from itertools import islice

import pytest
from msgspec.structs import replace

from api.runtime.stores import LogArchive
from domain.application import archive as importing
from domain.ids import Position, Slice
from domain.log.hash_chain import EMPTY_HEAD, Draft, chain_records
from tests.streams import ACME, NOON, threads_of

ENDED = Draft("TurnCompleted", 1, "{}", "{}")


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 4])
async def test_every_thread_of_a_slice_is_found(
    archive: LogArchive, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(importing, "MAX_PAGE_THREADS", at_a_time)
    threads = sorted(islice(threads_of(Slice(77)), 3))
    async with archive.writing() as writing:
        for number, thread_id in enumerate(threads):
            records, _ = chain_records(ACME, thread_id, EMPTY_HEAD, [ENDED], NOON)
            await writing.add_events([replace(record, position=Position(number + 1)) for record in records])

        found = [row.thread_id async for rows in importing._threads(writing) for row in rows]

    assert found == threads
