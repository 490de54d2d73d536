"""A log that an earlier version wrote: it opens, folds to the same states, verifies, and exports byte for byte."""

import json
from pathlib import Path

from api.runtime.stores import LogArchive
from domain.application.archive import import_log
from domain.application.audit.verify import verify_slices
from domain.application.thread_repository import ThreadRepository
from domain.ids import SLICES, Slice
from domain.ports.log import EventStore
from domain.thread.events import EVENTS
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.settings import CHECKOUT
from tests.support.files import content, export
from tests.support.recorded_log import states_of
from tests.support.runtime import Clock

LOG = CHECKOUT / "tests/data/log"


async def test_a_log_of_an_earlier_version_is_the_same_today(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    files = ExportedFiles(LOG / "export")
    files.check(lambda _: None)
    await import_log(archive, files, lambda *_: None)

    verified = await verify_slices(event_store, map(Slice, range(SLICES)))
    states = await states_of(
        event_store, ThreadRepository(event_store, MemorySnapshotStore(), Clock(), fingerprint="test")
    )
    await export(event_store, archive, tmp_path, "ndjson")

    assert verified.problems == ()
    assert states == [json.loads(line) for line in (LOG / "states.ndjson").read_text("utf-8").split("\n")[:-1]]
    assert content(tmp_path) == content(LOG / "export")


def test_the_log_has_every_kind_of_event() -> None:
    lines = [line for path in (LOG / "export/events").rglob("*.ndjson") for line in path.read_text("utf-8").split("\n")]
    later = {"ModelAnswered", "QuestionAsked", "QuestionAnswered", "ItemAdvanced"}
    assert {json.loads(line)["type"] for line in lines if line} == {event.__name__ for event in EVENTS} - later
