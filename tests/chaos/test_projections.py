"""A short version of `python -m tests.chaos projections`."""

import pytest

from domain.ids import DEFAULT_TENANT
from tests.chaos import projections
from tests.support.plain import Plain, whole_log
from tests.support.projected import differences


@pytest.mark.timeout(600)
async def test_read_models_are_what_the_log_comes_to_whoever_dies_while_writing_them(database_url: str) -> None:
    report = await projections.run(database_url, 8, 1, "same", least_kills=5)

    assert report.faults == []
    assert report.kills >= 5
    assert report.undone, "the test must be about something"


async def test_a_run_in_which_no_projection_advances_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "EARLY", 1.0)
    monkeypatch.setattr(projections.Killing, "start", 0.0)

    report = await projections.run(database_url, 0, 1, None, least_kills=3)

    (fault,) = report.faults
    assert "nothing was measured" in fault
    assert "3 processes were killed" in fault


@pytest.mark.timeout(600)
async def test_a_build_that_is_killed_again_and_again_repeats_no_effect(database_url: str) -> None:
    await projections.run(database_url, 4, 2, None)
    async with projections.runner_of(database_url) as runner:
        await runner.models.rebuild([projection.shape for projection in runner.projections], throttle=3_000)
        kills = 0
        while any(instance.status == "building" for instance in await runner.models.instances()):
            await projections.briefly(database_url, 0.1 * kills)
            kills += 1
        log = await whole_log(runner.repository.store)
        assert await differences(runner.models, Plain(log), DEFAULT_TENANT) == []
    assert kills >= 2, "the test must be about something"
