"""Seals: signed statements of the log's content at an instant.

The signed text is ASCII. Its lines are joined by single newlines, without one at the end:

    threadfold seal 1
    number          in decimal, from 1
    at              2026-11-23T01:02:03.000004Z
    root            of the log's tree (see `domain/log/merkle.py`), 64 hexadecimal digits in lower case
    previous        SHA-256 of the previous seal's signed text, in the same notation; zeros for the first seal
    key id          SHA-256 of the public key, its first 32 hexadecimal digits

The root covers the sizes of all slices. The signature is Ed25519 over these bytes. Each seal covers the one before it,
so an auditor who trusts the key of one seal can trust all earlier seals, even if other keys signed them.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from domain.log.hash_chain import timestamp
from domain.log.merkle import Tree, log_root

NO_PREVIOUS_SEAL = bytes(32)
"""The `previous` of the first seal."""


class Statement(Struct, frozen=True):
    """A seal without its signature."""

    number: int
    at: datetime
    sizes: tuple[int, ...]
    root: bytes
    previous: bytes
    public_key: bytes

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id_of(self.public_key)


class Seal(Statement, frozen=True):
    """A signed statement that the log's slices had these sizes and this common root."""

    signature: bytes

    @property
    def events(self) -> int:
        """The number of events that the seal covers."""
        return sum(self.sizes)


def key_id_of(public_key: bytes) -> str:
    """Return a key's id, derived from its public part."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def signed_text(seal: Statement) -> bytes:
    """Return the text that is signed."""
    lines = (
        "threadfold seal 1",
        str(seal.number),
        timestamp(seal.at),
        seal.root.hex(),
        seal.previous.hex(),
        seal.key_id,
    )
    return "\n".join(lines).encode()


def seal_digest(seal: Statement | None) -> bytes:
    """Return the `previous` of the seal after this one."""
    return NO_PREVIOUS_SEAL if seal is None else hashlib.sha256(signed_text(seal)).digest()


def next_statement(last: Seal | None, trees: Sequence[Tree], now: datetime, public_key: bytes) -> Statement:
    """Return the next seal's statement. The times of seals never decrease."""
    return Statement(
        number=last.number + 1 if last else 1,
        at=max(now, last.at) if last else now,
        sizes=tuple(tree.size for tree in trees),
        root=log_root(trees),
        previous=seal_digest(last),
        public_key=public_key,
    )


def chain_problems(seal: Seal, before: Seal | None) -> list[str]:
    """Return the ways in which a seal does not follow the one before it, one sentence each."""
    expected = before.number + 1 if before else 1
    if seal.number != expected:
        return [f"Seal {expected} is missing, {seal.number} came instead"]
    wrong = []
    if seal.previous != seal_digest(before):
        wrong.append(f"Seal {seal.number} does not follow the seal before it: one of them was changed")
    if before and seal.at < before.at:
        wrong.append(f"Seal {seal.number} is older than the seal before it")
    sizes = before.sizes if before else ()
    wrong += [
        f"Seal {seal.number} covers {now} events of slice {number}, the seal before it covers {then}"
        for number, (then, now) in enumerate(zip(sizes, seal.sizes, strict=False))
        if now < then
    ]
    return wrong
