"""Seals, proofs and verifications, as the API answers them."""

import base64
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from domain.application.audit.proofs import Proof
from domain.log.seal import Seal, timestamp


class SealView(Struct, frozen=True):
    """A seal: what was signed, and by which key. `events` counts what it covers.

    Bytes are hexadecimal, but for the public key and the signature, which are in base64.
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
    """A seal, with how many events of each slice it covers."""

    sizes: Sequence[int]


class ProvedEvent(Struct, frozen=True):
    """An event's fields, each as it is hashed; `metadata` and `payload` are the stored texts."""

    tenant: str
    thread_id: UUID
    version: int
    type: str
    schema: int
    recorded_at: str
    metadata: str
    payload: str


class ProvingSeal(Struct, frozen=True):
    """The seal that a proof leads to; `at` as it is signed."""

    number: int
    at: str
    root: str
    previous: str
    key_id: str
    public_key: str
    signature: str


class ProofView(Struct, frozen=True):
    """That an event is in the sealed log. `docs/verify_event.py` checks it without Threadfold."""

    event: ProvedEvent
    previous: str
    """The hash of the event before it in its thread; zeros before the first."""
    hash: str
    slice: int
    position: int
    """The event is leaf number `position - 1` of its slice's tree."""
    size: int
    """How many events of the slice the seal covers."""
    path: Sequence[str]
    """What the event's leaf is joined with on its way to the slice's root."""
    slice_path: Sequence[str]
    """What the slice's leaf is joined with on its way to the log's root."""
    seal: ProvingSeal


class VerificationReport(Struct, frozen=True):
    """What was checked, how long it took, and what is wrong."""

    threads: int
    events: int
    slices: int
    seals: int
    sealed_events: int
    """Events that the last seal covers. Of what came after it, an end that was cut off may go unnoticed."""
    seconds: float
    problems: tuple[str, ...]


def seal_view(seal: Seal) -> SealView:
    """Show a seal in a list."""
    signed = (seal.root.hex(), seal.previous.hex(), seal.key_id, in_base64(seal.public_key), in_base64(seal.signature))
    return SealView(seal.number, seal.at, seal.events, *signed)


def whole_seal(seal: Seal) -> WholeSeal:
    """Show a seal with the sizes of all slices."""
    return WholeSeal(**asdict(seal_view(seal)), sizes=seal.sizes)


def proof_view(proof: Proof) -> ProofView:
    """Write a proof as a document."""
    record, place, seal = proof.record, proof.place, proof.seal
    return ProofView(
        event=ProvedEvent(
            record.tenant,
            record.thread_id,
            record.version,
            record.type,
            record.schema,
            timestamp(record.recorded_at),
            record.metadata,
            record.payload,
        ),
        previous=proof.previous.hex(),
        hash=record.hash.hex(),
        slice=place.slice,
        position=place.position,
        size=place.size,
        path=[part.hex() for part in place.path],
        slice_path=[part.hex() for part in place.slice_path],
        seal=ProvingSeal(
            seal.number,
            timestamp(seal.at),
            seal.root.hex(),
            seal.previous.hex(),
            seal.key_id,
            in_base64(seal.public_key),
            in_base64(seal.signature),
        ),
    )


def in_base64(raw: bytes) -> str:
    """Write bytes as keys and signatures are shown."""
    return base64.b64encode(raw).decode()
