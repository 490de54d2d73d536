"""`threadfold projections`, as typed."""

import pytest

from projections.registry import PROJECTIONS
from tests.integration.test_cli import conversation
from tests.support.command import Done, threadfold


@pytest.fixture
async def database(database_url: str) -> str:
    """Name a database with a conversation that no read model knows yet."""
    await conversation(database_url)
    return database_url


async def typed(database: str, *arguments: str) -> Done:
    return await threadfold("projections", *arguments, database_url=database)


async def test_read_models_are_built_listed_exchanged_and_dropped(database: str) -> None:
    built = await typed(database, "rebuild", "usage", "threads")
    assert (built.status, built.err) == (0, "")
    assert "Built usage, threads from " in built.out
    listed = (await typed(database, "list")).out.splitlines()
    assert [line.split()[0] for line in listed if "kept" in line] == ["threads", "usage"]
    back = await typed(database, "rollback", "usage")
    first = 1 + [projection.name for projection in PROJECTIONS].index("usage")
    assert (back.status, back.out) == (0, f"Instance {first} of usage serves again.\n")
    dropped = await typed(database, "drop", "usage")
    assert (dropped.status, dropped.out) == (0, "Only what serves of usage is left.\n")
    assert (await typed(database, "parked")).out == "Nothing is parked.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rebuild"], "Name the read models to build, or use --all."),
        (["rebuild", "nothing"], "nothing"),
        (["rollback", "usage"], "No older instance of usage is kept."),
        (["drop", "nothing"], "nothing"),
        (["retry", "usage", "00000000-0000-4000-8000-000000000001"], "There is no thread"),
        (["skip", "usage", "me"], "'me' is not a valid UUID"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_line(database: str, arguments: list[str], said: str) -> None:
    await typed(database, "list")
    done = await typed(database, *arguments)
    assert done.status in {1, 2}
    assert said in done.err
    assert "Traceback" not in done.err
