"""Checking seals: their chain, their signatures, and that the log still holds what was sealed."""

from collections.abc import AsyncIterator, Collection

from msgspec import Struct

from domain.application.forest import grow
from domain.errors import CorruptLog
from domain.ids import Slice
from domain.merkle import EMPTY, Tree, log_root
from domain.ports.log import EventStore
from domain.ports.seals import SealStore, Verifier
from domain.seals import Seal, breaks, key_id_of, signed_text

PAGE = 100
"""Seals read at a time: each has 1,024 sizes."""


class SealsChecked(Struct, frozen=True):
    """How many seals were checked, what the last one covers, and what is wrong, one sentence each."""

    seals: int = 0
    events: int = 0
    problems: tuple[str, ...] = ()


async def check_seals(
    events: EventStore, seals: SealStore, verifier: Verifier, trusted: Collection[bytes] = ()
) -> SealsChecked:
    """Check that the seals are a chain, each signed, and that the log still fits the last one.

    `trusted` are public keys; the last seal must be of one of them. As it covers those before, they may be of others.
    """
    problems: list[str] = []
    last, count = None, 0
    async for seal in _all(seals):
        problems += [*breaks(seal, last), *_unsigned(seal, verifier)]
        last, count = seal, count + 1
    if last is None:
        return SealsChecked()
    if trusted and last.public_key not in trusted:
        names = ", ".join(key_id_of(key) for key in trusted)
        problems.append(
            f"Seal {last.number}, the last one, was signed with the key {last.key_id}; {names} is what is trusted"
        )
    problems += await check_against_log(events, last)
    return SealsChecked(count, last.events, tuple(problems))


async def check_seal(
    events: EventStore, seal: Seal, verifier: Verifier, trusted: Collection[bytes] = ()
) -> SealsChecked:
    """Check one seal: its signature, and that the log still holds what it covers."""
    problems = [*_unsigned(seal, verifier), *await check_against_log(events, seal)]
    if trusted and seal.public_key not in trusted:
        problems.append(f"Seal {seal.number} was signed with the key {seal.key_id}, which is not trusted")
    return SealsChecked(1, seal.events, tuple(problems))


async def check_against_log(events: EventStore, seal: Seal) -> list[str]:
    """Say what of a seal the log does not have any more."""
    problems: list[str] = []
    trees: list[Tree] = []
    heads = await events.slice_heads()
    for number, (size, head) in enumerate(zip(seal.sizes, heads, strict=True)):
        try:
            trees.append(await grow(events, Slice(number), EMPTY, size))
        except CorruptLog as error:
            problems.append(f"Seal {seal.number} covers {size} events of slice {number}. {error}")
            continue
        if head < size:
            problems.append(f"Seal {seal.number} covers {size} events of slice {number}, whose head is {head}")
    if not problems and log_root(trees) != seal.root:
        problems.append(
            f"Seal {seal.number}: the root of the {seal.events} events that it covers is not the one that was signed. "
            "An event was changed, or exchanged for another one"
        )
    return problems


def _unsigned(seal: Seal, verifier: Verifier) -> list[str]:
    if verifier.verify(seal.public_key, seal.signature, signed_text(seal)):
        return []
    return [f"Seal {seal.number} is not what was signed, or not by the key {seal.key_id}"]


async def _all(seals: SealStore) -> AsyncIterator[Seal]:
    after = 0
    while page := await seals.page(after, PAGE):
        for seal in page:
            yield seal
        after = page[-1].number
