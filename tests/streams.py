"""Threads and appends for the tests of stores."""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from domain.ids import CommandId, Slice, Tenant, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Draft, Head, chain_records
from domain.ports.log import Append, CommandRecord

ACME = Tenant("acme")
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def new_thread() -> ThreadId:
    return ThreadId(uuid.uuid4())


def threads_of(slice_: Slice) -> Iterator[ThreadId]:
    """Invent threads of one slice."""
    return (thread_id for thread_id in map(ThreadId, map(uuid.UUID, _texts())) if slice_of(thread_id) == slice_)


def a_command(result: str = '{"turn": 1}') -> CommandRecord:
    return CommandRecord(CommandId(uuid.uuid4()), b"r" * 32, result)


def drafts(*payloads: str) -> list[Draft]:
    return [Draft("NoteTaken", 1, payload, '{"actor": "test"}') for payload in payloads]


def appending(
    thread_id: ThreadId,
    after: Head = EMPTY_HEAD,
    *payloads: str,
    at: datetime = NOON,
    tenant: Tenant = ACME,
    in_turn: bool = False,
    command: CommandRecord | None = None,
) -> Append:
    """Seal payloads after a head."""
    records, head = chain_records(tenant, thread_id, after, drafts(*payloads), at)
    return Append(tenant, thread_id, after, head, records, in_turn, command)


def numbered(count: int) -> Sequence[str]:
    return [f'{{"n": {n}}}' for n in range(count)]


def _texts() -> Iterator[str]:
    return (str(uuid.uuid4()) for _ in itertools.count())
