"""Forking: a thread that begins as another one was at a version. It stores where it comes from, and no copy."""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from domain.application.command_handler import CommandResult, IdempotencyKey, command_record_of, earlier_result
from domain.application.thread_repository import ThreadRepository
from domain.errors import ThreadAlreadyOpen, VersionConflict
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId, TurnId, Version
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, Command, EditMessage, ForkThread, StopTurn, UpdateValues
from domain.thread.decide import decide, decide_all
from domain.thread.evolve import fold
from domain.thread.state import Running, State


class Fork(Struct, frozen=True):
    """What is asked: where to leave the parent, and what is to read otherwise.

    A turn that is running at that version ends in the fork, or is gone on with there (`resume`).
    """

    parent: ThreadId
    at_version: Version
    edits: tuple[EditMessage, ...] = ()
    changes: UpdateValues | None = None
    resume: bool = False


async def fork(
    repository: ThreadRepository,
    thread_id: ThreadId,
    asked: Fork,
    metadata: Metadata,
    tenant: Tenant = DEFAULT_TENANT,
    repeatable: IdempotencyKey | None = None,
) -> CommandResult:
    """Begin a thread as another one was.

    Raises:
        UnknownThread: there is no such parent.
        ThreadAlreadyOpen: the id is taken.
        InvalidInput: the parent has fewer events, or an edit cannot be made.
    """
    if (done := await earlier_result(repository, thread_id, tenant, repeatable)) is not None:
        return done
    left = replace(await repository.load_at(asked.parent, asked.at_version, tenant), thread_id=thread_id)
    owner = asked.parent
    while (origin := await repository.origin(owner)) and asked.at_version <= origin.version:
        owner = origin.parent
    events = decide(ForkThread(owner, asked.at_version), left.state)
    events += decide_all(_changes(asked, fold(left.state, events)), fold(left.state, events))
    record = command_record_of(repeatable, left, len(events))
    try:
        loaded, recorded = await repository.append(left, events, metadata, record, forked=True)
    except VersionConflict:
        if (done := await earlier_result(repository, thread_id, tenant, repeatable)) is not None:
            return done
        raise ThreadAlreadyOpen from None
    return CommandResult(loaded, recorded)


def _changes(asked: Fork, state: State) -> Iterable[Command]:
    if isinstance(state, Running) and not asked.resume:
        turn_id = TurnId(state.turn.turn_id)
        yield CancelTurn(turn_id)
        yield StopTurn(turn_id, None, 0, state.turn.run)
    yield from asked.edits
    if asked.changes:
        yield asked.changes
