"""A process that ends writes what its projections have begun to write: a transaction that is cut off is done again."""

import asyncio

import pytest

from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.ids import ThreadId
from domain.ports.read_models import Batch
from infrastructure.settings import Settings


async def test_a_batch_that_is_being_written_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_env_file=None, database_url="memory://")  # type: ignore[call-arg]
    begun, ended = asyncio.Event(), asyncio.Event()
    async with open_runtime(settings) as runtime:
        commit = runtime.log.models.commit

        async def slowly(batch: Batch) -> bool:
            begun.set()
            await asyncio.sleep(0.2)
            written = await commit(batch)
            ended.set()
            return written

        monkeypatch.setattr(runtime.log.models, "commit", slowly)
        async with runtime.worker.working(), runtime.projecting():
            await Service(runtime).open(ThreadId(runtime.new_id()), "assistant", {}, Caller())
            async with asyncio.timeout(60):
                await begun.wait()
            assert not ended.is_set()
        assert ended.is_set()
