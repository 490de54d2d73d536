"""Answers of the API about seals, proofs and verifications."""

import base64
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from api.schemas.view import view_of
from domain.application.audit.proofs import Proof
from domain.log.hash_chain import timestamp
from domain.log.seal import Seal


class SealView(Struct, frozen=True):
    """A seal: what was signed, and by which key. `events` is the number of events that it covers.

    Bytes are hexadecimal, except the public key and the signature, which are base64.
    """

    number: int
    at: datetime
    events: int
    root: str
    previous: str
    key_id: str
    public_key: str
    signature: str


class WholeSeal(SealView, frozen=True):
    """A seal with the number of events of each slice that it covers."""

    sizes: Sequence[int]


class ProvedEvent(Struct, frozen=True):
    """An event's fields in the form in which they are hashed; `metadata` and `payload` are the stored texts."""

    tenant: str
    thread_id: UUID
    version: int
    type: str
    schema: int
    recorded_at: str
    metadata: str
    payload: str


class ProvingSeal(Struct, frozen=True):
    """The seal of a proof; `at` is in the signed form."""

    number: int
    at: str
    root: str
    previous: str
    key_id: str
    public_key: str
    signature: str


class ProofView(Struct, frozen=True):
    """A proof that an event is in the sealed log. `docs/verify_event.py` checks it without Threadfold."""

    event: ProvedEvent
    previous: str
    """The hash of the event before it in its thread; zeros before the first."""
    hash: str
    slice: int
    position: int
    """The event is the leaf `position - 1` of its slice's tree."""
    size: int
    """The number of events of the slice that the seal covers."""
    path: Sequence[str]
    """The sibling hashes from the event's leaf to the slice's root."""
    slice_path: Sequence[str]
    """The sibling hashes from the slice's leaf to the log's root."""
    seal: ProvingSeal


class VerificationReport(Struct, frozen=True):
    """What was checked, how long it took, and the problems."""

    threads: int
    events: int
    slices: int
    seals: int
    sealed_events: int
    """Events that the last seal covers. If later events were removed at the end of the log, this may go unnoticed."""
    seconds: float
    problems: tuple[str, ...]


def seal_view(seal: Seal) -> SealView:
    """Convert a seal for a list."""
    return SealView(seal.number, seal.at, seal.events, *_signed_parts(seal))


def whole_seal(seal: Seal) -> WholeSeal:
    """Convert a seal, with the sizes of all slices."""
    return WholeSeal(**asdict(seal_view(seal)), sizes=seal.sizes)


def proof_view(proof: Proof) -> ProofView:
    """Convert a proof to a document."""
    record, place, seal = proof.record, proof.place, proof.seal
    return view_of(
        ProofView,
        place,
        event=view_of(ProvedEvent, record, recorded_at=timestamp(record.recorded_at)),
        previous=proof.previous.hex(),
        hash=record.hash.hex(),
        path=[part.hex() for part in place.path],
        slice_path=[part.hex() for part in place.slice_path],
        seal=ProvingSeal(seal.number, timestamp(seal.at), *_signed_parts(seal)),
    )


def _signed_parts(seal: Seal) -> tuple[str, str, str, str, str]:
    """The root, the previous seal's digest, the key's id, the key and the signature."""
    return (seal.root.hex(), seal.previous.hex(), seal.key_id, in_base64(seal.public_key), in_base64(seal.signature))


def in_base64(raw: bytes) -> str:
    """Encode a key or a signature."""
    return base64.b64encode(raw).decode()
