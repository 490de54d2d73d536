"""The command handler: load, decide, append, with optimistic concurrency. After a conflict, it tries again."""

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

_decode_version = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=MAX_VERSION)]).decode

MAX_ATTEMPTS = 10
"""How often a command is decided before the handler gives up because of version conflicts."""

Plan = Callable[[State], Iterable[Command]]
"""Returns the commands to carry out, given the state. They are decided one after the other and stored together."""


class ExpectedVersion(Struct, frozen=True):
    """The checkpoint that a caller expects: a version, and the first digits of its hash."""

    version: Version
    hash: str


class IdempotencyKey(Struct, frozen=True):
    """Makes a command idempotent: an id derived from the caller's key, and the SHA-256 of the request."""

    id: CommandId
    request_hash: bytes


class CommandRequest(Struct, frozen=True):
    """Commands for one thread. `known` is the thread as the caller last loaded it: that only saves a read."""

    thread_id: ThreadId
    plan: Plan
    metadata: Metadata = Metadata()
    tenant: Tenant = DEFAULT_TENANT
    expected: ExpectedVersion | None = None
    idempotency_key: IdempotencyKey | None = None
    known: LoadedThread | None = None
    fence: Fence | None = None


class CommandResult(Struct, frozen=True):
    """The thread after a command, and the command's events: none if it changed nothing or was `repeated`."""

    loaded: LoadedThread
    events: Sequence[Recorded]
    repeated: bool = False


def idempotency_key(thread_id: ThreadId, key: str, request: object) -> IdempotencyKey:
    """Bind a caller's idempotency key to its thread and its request."""
    digest = hashlib.sha256(to_json(request).encode()).digest()
    return IdempotencyKey(CommandId(uuid5(thread_id, key)), digest)


def checkpoint_of(loaded: LoadedThread) -> str:
    """Return the checkpoint for callers: the thread's version, and the first 8 digits of its hash."""
    return f"{loaded.head.version}-{loaded.head.hash.hex()[:8]}"


async def execute(repository: ThreadRepository, request: CommandRequest) -> CommandResult:
    """Carry out commands.

    Raises:
        VersionConflict: the thread is not at the checkpoint that the caller expects.
        StoreUnavailable: the store does not answer, or each attempt met a version conflict.
        LeaseLost: another worker has the shard that `fence` names.
        CommandReused: the idempotency key was used before, with another request.
        Conflict, InvalidInput: see `decide`.
    """
    async with repository.lock(request.thread_id):
        known = request.known
        guess = None if known else repository.cached_idle(request.thread_id, request.tenant)
        for _ in range(MAX_ATTEMPTS):
            if done := await earlier_result(repository, request.thread_id, request.tenant, request.idempotency_key):
                return done
            loaded = known or guess or await repository.load(request.thread_id, request.tenant)
            known = None
            try:
                _check_expected(request.expected, loaded)
                events = decide_all(request.plan(loaded.state), loaded.state)
            except ThreadfoldError:
                if loaded is not guess:
                    raise
                events = ()
            if loaded is guess:
                guess = None
                if not events:  # perhaps only because the cached state is stale
                    continue
            elif not events and (request.idempotency_key is None or not loaded.head.version):
                return CommandResult(loaded, ())
            record = command_record_of(request.idempotency_key, loaded, len(events))
            try:
                chained = repository.chain(loaded, events, request.metadata)
                moved, recorded = await repository.append(chained, record, fence=request.fence)
            except VersionConflict:
                continue
            return CommandResult(moved, recorded)
    raise StoreUnavailable("Other processes keep writing to this thread. Try again.")


async def earlier_result(
    repository: ThreadRepository, thread_id: ThreadId, tenant: Tenant, idempotency_key: IdempotencyKey | None
) -> CommandResult | None:
    """Return the result of a command that was carried out before; None if it was not.

    Raises:
        CommandReused: its idempotency key was used with another request.
    """
    stored = await repository.store.command(thread_id, idempotency_key.id) if idempotency_key else None
    if stored is None or idempotency_key is None:
        return None
    if stored.request_hash != idempotency_key.request_hash:
        raise CommandReused
    return CommandResult(await repository.load_at(thread_id, result_version_of(stored), tenant), (), repeated=True)


def command_record_of(
    idempotency_key: IdempotencyKey | None, loaded: LoadedThread, events: int
) -> CommandRecord | None:
    """Build the stored record of a command, with the version that the command leads to."""
    if idempotency_key is None:
        return None
    return CommandRecord(idempotency_key.id, idempotency_key.request_hash, str(loaded.head.version + events))


def result_version_of(command: CommandRecord) -> Version:
    """Return the version that a command has led to. Raises `CorruptLog`: its stored result is no version."""
    try:
        return Version(_decode_version(command.result))
    except msgspec.MsgspecError as error:
        raise CorruptLog(f"The result of the command {command.id} is not a version: {error}") from error


def _check_expected(expected: ExpectedVersion | None, loaded: LoadedThread) -> None:
    head = loaded.head
    if expected and (expected.version != head.version or not head.hash.hex().startswith(expected.hash)):
        raise VersionConflict(expected.version, head.version)
