"""Threads that begin as another one was."""

from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.agents.assistant import assistant
from domain.application.audit.verify import verify_slices, verify_thread
from domain.application.command_handler import CommandRequest, execute
from domain.application.fork import Fork, fork
from domain.application.queries.transcript import Transcript
from domain.application.thread_repository import ThreadRepository
from domain.errors import InvalidInput, ThreadAlreadyOpen, UnknownThread
from domain.ids import SLICES, START, Slice, ThreadId, Version
from domain.ports.log import EventStore
from domain.thread.codec import Metadata
from domain.thread.commands import EditMessage, UpdateValues
from domain.thread.events import ThreadForked, TurnCancelled, TurnCompleted
from domain.thread.state import Idle, Running, State, Unopened
from tests.support.runtime import Stage, calls, double, says, stage


async def conversation() -> Stage:
    played = stage(assistant(tools=[double]), calls(("double", {"number": 4})), says("8"), *[says("hm")] * 20)
    await played.say("double four")
    await played.say("thanks")
    return played


async def forked(played: Stage, version: int, **more: object) -> ThreadId:
    fork_id = ThreadId(uuid4())
    asked = Fork(played.thread_id, Version(version), **more)  # type: ignore[arg-type]
    await fork(played.repository, fork_id, asked, Metadata())
    return fork_id


def fresh(played: Stage) -> ThreadRepository:
    return ThreadRepository(played.store, played.snapshots, played.clock, fingerprint="test")


def without_version(state: State) -> State:
    return replace(state, version=Version(0))


async def test_a_fork_folds_to_what_its_parent_was_at_each_version() -> None:
    played = await conversation()
    last = (await played.repository.load(played.thread_id)).head.version
    for version in range(1, last + 1):
        fork_id = await forked(played, version, resume=True)
        for repository in (played.repository, fresh(played)):
            there = await repository.load_at(played.thread_id, Version(version))
            here = await repository.load_at(fork_id, Version(version + 1))
            assert without_version(here.state) == without_version(there.state)
            assert (await repository.load_at(fork_id, Version(version))).state == there.state


async def test_a_fork_stores_one_event_however_long_its_parent_is() -> None:
    played = await conversation()
    last = (await played.repository.load(played.thread_id)).head.version
    fork_id = await forked(played, last)
    (own,) = await played.store.read(fork_id, START)
    assert (own.type, own.version) == ("ThreadForked", last + 1)


async def test_its_history_is_the_parents_and_then_its_own() -> None:
    played = await conversation()
    last = (await played.repository.load(played.thread_id)).head.version
    fork_id = await forked(played, last)
    parent, played.thread_id = played.thread_id, fork_id
    await played.say("and now?")
    versions = [recorded.version async for recorded in played.repository.follow(fork_id)]
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) > last + 1
    assert [r.version for r in await played.repository.history(fork_id, Version(last - 1), None, 3)] == [
        last,
        last + 1,
        last + 2,
    ]
    said = [message.content async for message in Transcript(played.repository, fork_id).read()]
    assert said == ["double four", None, "8", "8", "thanks", "hm", "and now?", "hm"]
    assert (await played.repository.load(parent)).head.version == last


async def test_forks_of_forks_point_to_whoever_has_the_event() -> None:
    played = await conversation()
    grandparent = played.thread_id
    last = (await played.repository.load(grandparent)).head.version
    parent = await forked(played, last)
    played.thread_id = parent
    await played.say("more")
    own = (await played.repository.load(parent)).head.version
    early, late = await forked(played, 3), await forked(played, own)
    first = (await played.repository.history(early, Version(3), limit=1))[0].event
    assert first == ThreadForked(grandparent, 3)
    assert (await played.repository.history(late, Version(own), limit=1))[0].event == ThreadForked(parent, own)
    repository = fresh(played)
    assert without_version((await repository.load(late)).state) == without_version(
        (await repository.load(parent)).state
    )


async def test_a_running_turn_ends_in_the_fork_or_goes_on() -> None:
    played = await conversation()
    ended = await played.repository.load(await forked(played, 5))
    assert isinstance(ended.state, Idle)
    assert ended.state.thread.last_turn is not None
    assert ended.state.thread.last_turn.outcome == "cancelled"
    parent = played.thread_id
    played.thread_id = await forked(played, 5, resume=True)
    assert isinstance((await played.repository.load(played.thread_id)).state, Running)
    async with played.worker().working():
        await played.settled()
    assert len(await played.happened(TurnCompleted)) == 1
    assert not await played.happened(TurnCancelled)
    assert len([e async for e in played.repository.follow(parent)]) > 5


async def test_messages_and_values_may_be_edited() -> None:
    played = await conversation()
    fork_id = await forked(
        played,
        3,
        edits=(EditMessage(Version(3), "double five", 2),),
        changes=UpdateValues({"mood": "curious"}),
    )
    state = (await fresh(played).load(fork_id)).state
    assert not isinstance(state, Unopened)
    assert [message.content for message in state.thread.window] == ["double five"]
    assert state.thread.values == {"mood": "curious"}
    with pytest.raises(InvalidInput, match="message: must be the version of a message"):
        await forked(played, 3, edits=(EditMessage(Version(2), "?", 1),))


async def test_an_edit_that_changes_nothing_leaves_no_event() -> None:
    played = await conversation()
    state = (await played.repository.load_at(played.thread_id, Version(3))).state
    assert isinstance(state, Running)
    said = state.thread.window[-1]
    for content, left in (said.content or "", 1), ("something else", 2):
        fork_id = await forked(played, 3, resume=True, edits=(EditMessage(said.version, content, said.tokens),))
        assert len(await played.store.read(fork_id, START)) == left


async def test_ids_and_versions_are_checked() -> None:
    played = await conversation()
    last = (await played.repository.load(played.thread_id)).head.version
    with pytest.raises(InvalidInput, match="at_version"):
        await forked(played, last + 1)
    with pytest.raises(ThreadAlreadyOpen):
        await fork(played.repository, played.thread_id, Fork(played.thread_id, Version(3)), Metadata())
    with pytest.raises(UnknownThread):
        await fork(played.repository, ThreadId(uuid4()), Fork(ThreadId(uuid4()), Version(3)), Metadata())


async def test_forks_verify_and_what_is_changed_in_one_is_found() -> None:
    played = await conversation()
    fork_id = await forked(played, 7)
    await execute(played.repository, CommandRequest(fork_id, lambda _: (UpdateValues({"a": 1}),)))
    assert (await verify_thread(played.store, fork_id)).problems == ()
    everything = await verify_slices(played.store, (Slice(number) for number in range(SLICES)))
    assert everything.problems == ()
    own = played.store._events[fork_id]  # type: ignore[attr-defined]
    own[0] = replace(own[0], payload=own[0].payload.replace(":7", ":6"))
    assert len((await verify_thread(played.store, fork_id)).problems) == 1


async def test_a_fork_of_a_fork_of_hundreds_is_read_like_any_other() -> None:
    played = await conversation()
    thread_id, version = played.thread_id, (await played.repository.load(played.thread_id)).head.version
    for number in range(1_200):
        fork_id = ThreadId(uuid4())
        asked = Fork(thread_id, version, changes=UpdateValues({"n": number}))
        version = (await fork(played.repository, fork_id, asked, Metadata())).loaded.head.version
        thread_id = fork_id

    loaded = await fresh(played).load(thread_id)
    hot = await played.repository.load(thread_id)
    assert (loaded.head, loaded.state) == (hot.head, hot.state)
    assert (await fresh(played).load_at(thread_id, Version(version - 2_000))).state.version == version - 2_000
    versions = [recorded.version async for recorded in fresh(played).follow(thread_id)]
    assert versions == list(range(1, version + 1))
    reads = CountedReads(played.store)
    again = ThreadRepository(reads, played.snapshots, played.clock, fingerprint="test")
    assert (await again.load(thread_id)).state == loaded.state
    assert reads.number < 5, "the first look has left a snapshot"


class CountedReads:
    """A store that counts how often it is asked."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.number = 0

    def __getattr__(self, name: str) -> Any:
        self.number += 1
        return getattr(self._store, name)
