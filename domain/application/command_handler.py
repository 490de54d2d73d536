"""Carrying out commands: load, decide, append; and again if somebody else was faster."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated
from uuid import uuid5

import msgspec
from msgspec import Meta, Struct

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import CommandReused, CorruptLog, StoreUnavailable, ThreadfoldError, VersionConflict
from domain.ids import DEFAULT_TENANT, MAX_VERSION, CommandId, Tenant, ThreadId, Version
from domain.ports.log import CommandRecord, Fence
from domain.thread.codec import Metadata, Recorded, to_json
from domain.thread.commands import Command
from domain.thread.decide import decide_all
from domain.thread.state import State
from domain.thread.turn_end import Events

_decode_version = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=MAX_VERSION)]).decode

ATTEMPTS = 10
"""How often a command is decided anew before the thread is called too contended."""

Plan = Callable[[State], Iterable[Command]]
"""Which commands to carry out, given the state; they are decided one after the other and stored together."""


class ExpectedVersion(Struct, frozen=True):
    """The checkpoint that a caller has seen: a version, and the beginning of its hash."""

    version: Version
    hash: str


class IdempotencyKey(Struct, frozen=True):
    """What makes a command safe to repeat: an id made of the idempotency key, and the hash of what is asked."""

    id: CommandId
    request_hash: bytes


class CommandRequest(Struct, frozen=True):
    """Who wants what of which thread. `known` is the thread as the caller last saw it: it saves a read, no more."""

    thread_id: ThreadId
    plan: Plan
    metadata: Metadata = Metadata()
    tenant: Tenant = DEFAULT_TENANT
    expected: ExpectedVersion | None = None
    repeatable: IdempotencyKey | None = None
    known: LoadedThread | None = None
    fence: Fence | None = None


class CommandResult(Struct, frozen=True):
    """The thread after a command, and the events that it caused: none if it changed nothing or was a repetition."""

    loaded: LoadedThread
    events: Sequence[Recorded]
    repeated: bool = False


def repeatable(thread_id: ThreadId, key: str, request: object) -> IdempotencyKey:
    """Bind an idempotency key to its thread and to what is asked."""
    digest = hashlib.sha256(to_json(request).encode()).digest()
    return IdempotencyKey(CommandId(uuid5(thread_id, key)), digest)


def checkpoint_of(loaded: LoadedThread) -> str:
    """Write where a thread is, for callers to hand back: version and the first 8 digits of its hash."""
    return f"{loaded.head.version}-{loaded.head.hash.hex()[:8]}"


async def execute(repository: ThreadRepository, request: CommandRequest) -> CommandResult:
    """Carry out commands.

    Raises:
        VersionConflict: the thread is not at the checkpoint that the caller has seen.
        StoreUnavailable: other processes were faster each time, or the store does not answer.
        LeaseLost: another worker has the shard that `fence` names.
        CommandReused: the idempotency key came before, with another request.
        Conflict, InvalidInput: see `decide`.
    """
    async with repository.lock(request.thread_id):
        known = request.known
        guess = None if known else repository.last_seen(request.thread_id, request.tenant)
        for _ in range(ATTEMPTS):
            if (
                done := await earlier_result(repository, request.thread_id, request.tenant, request.repeatable)
            ) is not None:
                return done
            loaded = known or guess or await repository.load(request.thread_id, request.tenant)
            known = None
            try:
                events = _decided(request, loaded)
            except ThreadfoldError:
                if loaded is not guess:
                    raise
                events = ()
            if loaded is guess:
                guess = None
                if not events:  # perhaps only because the thread has moved on
                    continue
            elif not events and (request.repeatable is None or not loaded.head.version):
                return CommandResult(loaded, ())
            record = command_record_of(request.repeatable, loaded, len(events))
            try:
                chained = repository.chain(loaded, events, request.metadata)
                moved, recorded = await repository.append_chained(loaded, chained, record, fence=request.fence)
            except VersionConflict:
                continue
            return CommandResult(moved, recorded)
    raise StoreUnavailable("Other processes write to this thread all the time. Try again.")


async def earlier_result(
    repository: ThreadRepository, thread_id: ThreadId, tenant: Tenant, repeatable: IdempotencyKey | None
) -> CommandResult | None:
    """Answer a command that was carried out before, as it was answered then; None if it was not.

    Raises:
        CommandReused: its idempotency key came with another request.
    """
    if repeatable is None:
        return None
    stored = await repository.store.command(thread_id, repeatable.id)
    if stored is None:
        return None
    if stored.request_hash != repeatable.request_hash:
        raise CommandReused
    return CommandResult(await repository.load_at(thread_id, result_version_of(stored), tenant), (), repeated=True)


def command_record_of(repeatable: IdempotencyKey | None, loaded: LoadedThread, events: int) -> CommandRecord | None:
    """Make what is to be remembered of a command: the version that it leads to."""
    if repeatable is None:
        return None
    return CommandRecord(repeatable.id, repeatable.request_hash, str(loaded.head.version + events))


def result_version_of(command: CommandRecord) -> Version:
    """Read the version that a command has led to. Raises `CorruptLog`: its result is none."""
    try:
        return Version(_decode_version(command.result))
    except msgspec.MsgspecError as error:
        raise CorruptLog(f"The result of the command {command.id} is no version of a thread: {error}") from error


def _decided(request: CommandRequest, loaded: LoadedThread) -> Events:
    _check_seen(request.expected, loaded)
    return decide_all(request.plan(loaded.state), loaded.state)


def _check_seen(seen: ExpectedVersion | None, loaded: LoadedThread) -> None:
    if seen is None:
        return
    head = loaded.head
    if seen.version != head.version or not head.hash.hex().startswith(seen.hash):
        raise VersionConflict(seen.version, head.version)
