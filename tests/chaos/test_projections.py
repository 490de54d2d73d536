"""A short version of `python -m tests.chaos projections`."""

import pytest

from tests.chaos import projections


@pytest.mark.timeout(120)
async def test_read_models_are_what_the_log_comes_to_whoever_dies_while_writing_them(database_url: str) -> None:
    report = await projections.run(database_url, 8, 1, "same")

    assert report.faults == []
    assert report.kills >= 5
    assert report.undone, "the test must be about something"
