"""Proofs that an event is in the sealed log. An auditor can check one without access to the log."""

from msgspec import Struct

from domain.application.audit.sealer import Sealer
from domain.application.thread_reader import ThreadReader
from domain.errors import CorruptLog, NotSealedYet, UnknownEvent
from domain.ids import DEFAULT_TENANT, START, Position, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import GENESIS, Record, event_hash
from domain.log.merkle import Inclusion, audit_path, root_from_inclusion, slice_leaves
from domain.log.seal import Seal, signed_text
from domain.ports.log import EventStore
from domain.ports.seals import Verifier
from domain.thread.codec import decode
from domain.thread.events import ThreadForked


class Proof(Struct, frozen=True):
    """An event, the previous event's hash, the event's place in the log's tree, and the seal with the tree's root."""

    record: Record
    previous: bytes
    place: Inclusion
    seal: Seal


async def prove(
    store: EventStore, sealer: Sealer, thread_id: ThreadId, version: int, tenant: Tenant = DEFAULT_TENANT
) -> Proof:
    """Prove an event with the last seal. Versions that a fork shares with its parent are proved as the parent's.

    The proof is not checked here. Its recipient does that, and a proof of a changed log is invalid.

    Raises:
        UnknownThread: the thread does not exist, or is another tenant's.
        UnknownEvent: the thread has no such version.
        NotSealedYet: the last seal does not cover the event.
        CorruptLog: the event is missing, or not at its position.
    """
    row = await ThreadReader(store).row(thread_id, tenant)
    if not 1 <= version <= row.head.version:
        raise UnknownEvent(thread_id, version, row.head.version)
    record = await _find_record(store, thread_id, Version(version))
    seal = await sealer.seals.last()
    slice_ = slice_of(record.thread_id)
    if not 0 < record.position <= await store.slice_head(slice_):
        raise CorruptLog(f"{record.thread_id}: version {version} has a position that the slice never assigned")
    if seal is None or record.position > seal.sizes[slice_]:
        raise NotSealedYet(thread_id, Version(version), await sealer.due())
    before = await _find_record(store, record.thread_id, Version(version - 1)) if version > 1 else None
    size, leaves = seal.sizes[slice_], slice_leaves(await sealer.trees_at(seal))
    path = audit_path(await store.hashes(slice_, Position(size)), record.position - 1)
    place = Inclusion(slice_, record.position, size, path, audit_path(leaves, slice_))
    return Proof(record, before.hash if before else GENESIS, place, seal)


def verify_proof(proof: Proof, verifier: Verifier) -> bool:
    """Return whether a proof is valid: its event has its hash and leads to its seal's root, and the seal is signed."""
    r = proof.record
    computed = event_hash(
        proof.previous, r.tenant, r.thread_id, r.version, r.type, r.schema, r.recorded_at, r.metadata, r.payload
    )
    signed = verifier.verify(proof.seal.public_key, proof.seal.signature, signed_text(proof.seal))
    return signed and computed == r.hash and root_from_inclusion(computed, proof.place) == proof.seal.root


async def _find_record(store: EventStore, thread_id: ThreadId, version: Version) -> Record:
    """Return an event of a thread, or of the ancestor that it was forked from."""
    row = await store.thread(thread_id)
    base = row.base if row else START
    if version > base:
        if found := await store.read(thread_id, Version(version - 1), version):
            return found[0]
        raise CorruptLog(f"{thread_id}: version {version} is missing")
    first = await store.read(thread_id, base, Version(base + 1))
    event = decode(first[0]).event if first else None
    if not isinstance(event, ThreadForked):
        raise CorruptLog(f"{thread_id}: its first event, after version {base}, is not a ThreadForked")
    return await _find_record(store, ThreadId(event.parent), version)
