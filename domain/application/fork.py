"""Forking: a new thread that begins as another one was at a version. It stores a reference, not a copy."""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from domain.application.command_handler import CommandResult, IdempotencyKey, command_record_of, earlier_result
from domain.application.thread_repository import ThreadRepository
from domain.errors import ThreadAlreadyOpen, VersionConflict
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId, TurnId, Version
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, Command, EditMessage, ForkThread, SetBudget, StopTurn, UpdateValues
from domain.thread.decide import decide, decide_all
from domain.thread.evolve import fold
from domain.thread.state import Running, State


class Fork(Struct, frozen=True):
    """Where to leave the parent, and which messages, values and limits the fork changes.

    A turn that runs at that version is cancelled in the fork, unless `resume` continues it there.
    """

    parent: ThreadId
    at_version: Version
    edits: tuple[EditMessage, ...] = ()
    changes: UpdateValues | None = None
    resume: bool = False
    budget: SetBudget | None = None


async def fork(
    repository: ThreadRepository,
    thread_id: ThreadId,
    request: Fork,
    metadata: Metadata,
    tenant: Tenant = DEFAULT_TENANT,
    idempotency_key: IdempotencyKey | None = None,
) -> CommandResult:
    """Create a fork.

    Raises:
        UnknownThread: the parent does not exist.
        ThreadAlreadyOpen: `thread_id` is in use.
        InvalidInput: the parent has fewer events, or an edit cannot be made.
    """
    if done := await earlier_result(repository, thread_id, tenant, idempotency_key):
        return done
    left = replace(await repository.load_at(request.parent, request.at_version, tenant), thread_id=thread_id)
    owner = request.parent
    while (origin := await repository.origin(owner)) and request.at_version <= origin.version:
        owner = origin.parent
    events = decide(ForkThread(owner, request.at_version), left.state)
    events += decide_all(_changes(request, fold(left.state, events)), fold(left.state, events))
    record = command_record_of(idempotency_key, left, len(events))
    try:
        loaded, recorded = await repository.append(repository.chain(left, events, metadata, forked=True), record)
    except VersionConflict:
        if done := await earlier_result(repository, thread_id, tenant, idempotency_key):
            return done
        raise ThreadAlreadyOpen from None
    return CommandResult(loaded, recorded)


def _changes(request: Fork, state: State) -> Iterable[Command]:
    if isinstance(state, Running) and not request.resume:
        turn_id = TurnId(state.turn.turn_id)
        yield CancelTurn(turn_id)
        yield StopTurn(turn_id, None, 0, state.turn.run)
    yield from request.edits
    if request.changes:
        yield request.changes
    if request.budget:
        yield request.budget
