"""A short version of `make chaos`: each crash point once."""

import asyncio
from pathlib import Path

import pytest

from domain.thread.events import Durability
from tests.chaos import crashes
from tests.chaos.crashing import POINTS
from tests.e2e.server_process import recorded_model

AT_ONCE = 3
MODES: tuple[Durability, ...] = ("sync", "turn", "async")


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_doubled_wherever_a_worker_dies(
    postgres_server: str, template_database: str, tmp_path: Path
) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> crashes.Report:
        async with gate:
            return await crashes.run(postgres_server, template_database, model.url, seed, MODES[seed // 2 % 3])

    async with recorded_model(tmp_path) as model:
        reports = await asyncio.gather(*[one(seed) for seed in range(0, len(POINTS), 2)])
    faults = {f"seed {report.seed} {report.points}": report.faults for report in reports if report.faults}
    assert faults == {}
    assert sum(len(report.died_at) for report in reports) >= len(reports), "the test must be about something"
