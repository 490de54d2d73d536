"""Copies of seals, put back after an import as docs/audit.md describes."""

import re
from pathlib import Path

import asyncpg
import msgspec
import pytest

from api.schemas.seals import whole_seal
from domain.application.archive import import_log
from domain.application.audit.check_seals import SealsChecked, check_seal, check_seals
from domain.application.audit.verify import verify_slices
from domain.ids import SLICES, Position, Slice, ThreadId, Version
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.seals import MemorySealStore
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.seals import PostgresSealStore
from infrastructure.settings import CHECKOUT
from tests.support.files import export
from tests.support.log import Log
from tests.support.seals import VERIFIER, a_signer, sealer

PAGE = (CHECKOUT / "docs" / "audit.md").read_text(encoding="utf-8")
(PUT_BACK,) = re.findall(r"```sql\n\\set kept `cat seals\.json`\n(.*?)```", PAGE, re.DOTALL)


async def all_but_the_last_event(store: MemoryEventStore, thread_id: ThreadId) -> MemoryEventStore:
    """Cut off an event, and leave nothing that shows it: positions, heads and hashes are as if it had never been."""
    cut = MemoryEventStore()
    records = [r for number in range(SLICES) for r in await store.read_slice(Slice(number), Position(0), 1_000)]
    last = (await store.read(thread_id, Version(0)))[-1]
    cut.put(record for record in records if record != last)
    return cut


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
async def test_seals_that_were_put_back_show_whether_an_imported_log_is_whole(
    pool: asyncpg.Pool, tmp_path: Path, *, cut: bool
) -> None:
    origin, kept, signer = MemoryEventStore(), MemorySealStore(), a_signer()
    log = Log(origin)
    sealing = sealer(origin, kept, log.clock, signer)
    await log.write(days=1)
    assert await sealing.make()
    last = await log.conversation()  # in its slice, too, it comes last
    assert await sealing.make()
    seals = await kept.page(0, 10)
    exported = await all_but_the_last_event(origin, last) if cut else origin
    await export(exported, MemoryArchive(exported), tmp_path)

    await import_log(PostgresArchive(pool), ExportedFiles(tmp_path), lambda *_: None)
    events, put_back = PostgresEventStore(pool), PostgresSealStore(pool)
    without = await check_seals(events, put_back, VERIFIER, [signer.public_key])
    await pool.execute(PUT_BACK.replace(":'kept'", "$1"), msgspec.json.encode([*map(whole_seal, seals)]).decode())

    assert (await verify_slices(events, map(Slice, range(SLICES)))).problems == ()
    assert without == SealsChecked()
    assert await put_back.page(0, 10) == seals
    checked = await check_seals(events, put_back, VERIFIER, [signer.public_key])
    alone = await check_seal(events, seals[-1], VERIFIER, [signer.public_key])
    assert bool(checked.problems) == bool(alone.problems) == cut
    if not cut:
        await Log(events).conversation()
        following = await sealer(events, put_back, log.clock, signer).make()
        assert following
        assert following.number == 3
