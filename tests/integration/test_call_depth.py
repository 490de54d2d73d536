"""How many functions of our own lie between an HTTP handler and PostgreSQL's driver: a reader has to follow each."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import asyncpg
import pytest

from tests.support.http import running_api

ROOT = Path(__file__).parents[2]
OWN = ("api/", "domain/", "infrastructure/", "projections/")
MAX_APPEND_FRAMES = 9
MAX_READ_FRAMES = 7


def own(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    inside = path.is_relative_to(ROOT) and str(path.relative_to(ROOT)).startswith(OWN)
    return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}" if inside else None


def on_the_stack(frame: FrameType | None) -> Iterator[str]:
    """Name our functions that are running, the outermost one last."""
    while frame is not None:
        if name := own(frame):
            yield name
        frame = frame.f_back


def waiting(task: "asyncio.Task[Any]") -> list[str]:
    """Name our functions that a task is suspended in, the outermost one first."""
    found: list[str] = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if name := own(frame):
            found.append(name)
        coroutine = getattr(coroutine, "cr_await", None)
    return found


def from_handler(names: list[str]) -> list[str]:
    """Leave out what runs before the handler: it is the same for every request."""
    handler = next((at for at, name in enumerate(names) if name.startswith("api/routes/")), None)
    return [] if handler is None else names[handler:]


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths from handlers to the driver; of a group commit, from a caller that waits for it."""
    paths: list[list[str]] = []
    fetch = asyncpg.Connection.fetch

    async def recorded(self: asyncpg.Connection, statement: str, *arguments: Any, **how: Any) -> Any:
        names = list(on_the_stack(sys._getframe()))[::-1]
        if any("group_commit" in name for name in names):
            callers = [waiting(task) for task in asyncio.all_tasks()]
            paths.extend(
                [
                    from_handler(caller) + names
                    for caller in callers
                    if any(module in " ".join(caller[-1:]) for module in ("group_commit", "batching"))
                ]
            )
        else:
            paths.append(from_handler(names))
        return await fetch(self, statement, *arguments, **how)

    monkeypatch.setattr(asyncpg.Connection, "fetch", recorded)
    return paths


def deepest(paths: list[list[str]], handler: str) -> list[str]:
    return max((path for path in paths if path and path[0].endswith(f":{handler}")), key=len)


async def test_few_functions_lie_between_a_handler_and_the_driver(database_url: str, entered: list[list[str]]) -> None:
    async with running_api(database_url=database_url) as api:
        thread = await api.opened()
        await api.turn(thread, "Hello")
        entered.clear()
        assert (await api.turn(thread, "Hello again")).is_success
        turn = deepest(entered, "start_turn")
        entered.clear()
        assert (await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": 1}})).is_success
        values = deepest(entered, "update_values")
        entered.clear()
        assert (await api.get(f"/v1/threads/{thread}/state")).is_success
        state = deepest(entered, "show_state")
    assert len(turn) <= MAX_APPEND_FRAMES, turn
    assert len(values) <= MAX_APPEND_FRAMES, values
    assert len(state) <= MAX_READ_FRAMES, state
