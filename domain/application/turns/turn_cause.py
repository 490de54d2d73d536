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


async def sender_of(repository: ThreadRepository, loaded: LoadedThread) -> str:
    """Return the actor who sent the message that the running turn answers; "" if the request named none.

    A retry answers the message of an earlier turn, so the actor is not the one who asked for the retry.
    """
    begun = await beginning(repository, loaded)
    if isinstance(begun.event, TurnStarted) and begun.event.retries and isinstance(loaded.state, Running):
        messages = (message for message in reversed(loaded.state.thread.window) if message.role == "user")
        if message := next(messages, None):
            begun = await _event(repository, loaded.thread_id, Version(message.version - 1))
    if isinstance(begun.event, TurnStarted) and begun.event.queued:
        begun = await _event(repository, loaded.thread_id, Version(begun.event.queued))
    return begun.metadata.actor or ""


def message_of(state: Running) -> str:
    """Return the user's message that started the turn; "" if it is no longer in the live window."""
    # Later messages of the user answer questions of this turn. A turn that retries another has none of its own.
    own = (m for m in reversed(state.thread.window) if m.version <= state.turn.started + 1)
    return next((m.content for m in own if m.role == "user"), None) or ""


async def first_event(repository: ThreadRepository, thread_id: ThreadId) -> Recorded:
    """Return the first event of the thread's own: of a fork, the one that says so."""
    origin = await repository.origin(thread_id)
    return await _event(repository, thread_id, Version(origin.version + 1 if origin else 1))


async def _event(repository: ThreadRepository, thread_id: ThreadId, version: Version) -> Recorded:
    return (await repository.history(thread_id, Version(version - 1), version))[0]


def caused_by(metadata: Metadata) -> Metadata:
    """Describe what the agent does because of a command."""
    return Metadata(causation=metadata.command or metadata.causation, correlation=metadata.correlation)
