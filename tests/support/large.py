"""Threads with large events, written right into a store: as agents of other versions may have left them."""

from collections.abc import Sequence
from uuid import uuid4

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.ports.log import EventStore
from domain.thread.codec import Metadata
from domain.thread.events import Event, MessageAppended, ThreadOpened, TurnCompleted, TurnStarted
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock


async def a_thread(store: EventStore, texts: Sequence[str], thread_id: ThreadId | None = None) -> ThreadId:
    """Write a thread of one turn, in which the agent says some texts, and return its id. It has three events more."""
    thread_id, turn_id = thread_id or ThreadId(uuid4()), uuid4()
    repository = ThreadRepository(store, MemorySnapshotStore(), Clock(), fingerprint="none")
    loaded = LoadedThread(thread_id, DEFAULT_TENANT)
    begun: list[Event] = [ThreadOpened("assistant"), TurnStarted(turn_id, "generate_response", "f00")]
    for event in (*begun, *(MessageAppended("assistant", text, 1) for text in texts), TurnCompleted(turn_id)):
        loaded, _ = await repository.append(repository.chain(loaded, [event], Metadata()))
    return thread_id
