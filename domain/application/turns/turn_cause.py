"""What caused a turn: the event that it began with, and the command behind that."""

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import TurnIsOver
from domain.ids import ThreadId, Version
from domain.thread.codec import Metadata, Recorded
from domain.thread.events import TurnStarted
from domain.thread.state import Running


async def causing_command(repository: ThreadRepository, loaded: LoadedThread) -> Metadata:
    """Find the command that caused the running turn, so that all that the agent does still names it as its cause."""
    return await causing_command_of(repository, await beginning(repository, loaded))


async def beginning(repository: ThreadRepository, loaded: LoadedThread) -> Recorded:
    """Return the event that the running turn began with; of a fork, it may be the parent's."""
    state = loaded.state
    if not isinstance(state, Running):
        raise TurnIsOver
    return await _event(repository, loaded.thread_id, state.turn.started)


async def causing_command_of(repository: ThreadRepository, begun: Recorded) -> Metadata:
    """Find the command that caused a turn by the event that it began with."""
    if isinstance(begun.event, TurnStarted) and begun.event.queued:
        begun = await _event(repository, begun.thread_id, Version(begun.event.queued))
    return caused_by(begun.metadata)


async def first_event(repository: ThreadRepository, thread_id: ThreadId) -> Recorded:
    """Return the first event of the thread's own: of a fork, the one that says so."""
    origin = await repository.origin(thread_id)
    return await _event(repository, thread_id, Version(origin.version + 1 if origin else 1))


async def _event(repository: ThreadRepository, thread_id: ThreadId, version: Version) -> Recorded:
    return (await repository.history(thread_id, Version(version - 1), version))[0]


def caused_by(metadata: Metadata) -> Metadata:
    """Describe what the agent does because of a command."""
    return Metadata(causation=metadata.command or metadata.causation, correlation=metadata.correlation)
