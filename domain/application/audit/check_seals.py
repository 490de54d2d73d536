"""Checks seals: their chain, their signatures, and that the log still has what they cover."""

from collections.abc import AsyncIterator, Collection, Sequence

from msgspec import Struct

from domain.application.audit.merkle_trees import EMPTY_TREES, grow
from domain.errors import CorruptLog
from domain.ids import Position, Slice
from domain.log.merkle import Tree, log_root
from domain.log.seal import Seal, chain_problems, key_id_of, signed_text
from domain.ports.log import EventStore
from domain.ports.seals import SealStore, Verifier

PAGE_SEALS = 100
"""Seals in a page. Each has 1,024 sizes."""


class SealsChecked(Struct, frozen=True):
    """The number of checked seals, the events that the last one covers, and the problems, one sentence each."""

    seals: int = 0
    events: int = 0
    problems: tuple[str, ...] = ()


async def check_seals(
    events: EventStore, seals: SealStore, verifier: Verifier, trusted: Collection[bytes] = ()
) -> SealsChecked:
    """Check that the seals are a chain, that each is signed, and that the log still matches all of them.

    One of the `trusted` public keys must have signed the last seal. It covers the earlier ones, so other keys may have
    signed those.
    """
    problems: list[str] = []
    mismatches: list[tuple[Seal, list[str]]] = []
    last, count = None, 0
    trees: Sequence[Tree] = EMPTY_TREES
    heads = await events.slice_heads()
    async for seal in _all_seals(seals):
        problems += [*chain_problems(seal, last), *_check_signature(seal, verifier)]
        trees, wrong = await _check_against_log(events, seal, trees, heads)
        if wrong:
            mismatches.append((seal, wrong))
        last, count = seal, count + 1
    if last is None:
        return SealsChecked()
    if trusted and last.public_key not in trusted:
        names = ", ".join(key_id_of(key) for key in trusted)
        problems.append(
            f"Seal {last.number}, the last one, was signed with the key {last.key_id}; trusted keys: {names}"
        )
    if mismatches and mismatches[-1][0] is last:  # a change affects all seals after it: the first one tells its time
        mismatches = mismatches[:1]
    return SealsChecked(count, last.events, (*problems, *(why for _, wrong in mismatches for why in wrong)))


async def check_seal(
    events: EventStore, seal: Seal, verifier: Verifier, trusted: Collection[bytes] = ()
) -> SealsChecked:
    """Check one seal: its signature, and that the log still has what it covers."""
    _, wrong = await _check_against_log(events, seal, EMPTY_TREES, await events.slice_heads())
    problems = [*_check_signature(seal, verifier), *wrong]
    if trusted and seal.public_key not in trusted:
        problems.append(f"Seal {seal.number} was signed with the key {seal.key_id}, which is not trusted")
    return SealsChecked(1, seal.events, tuple(problems))


async def _check_against_log(
    events: EventStore, seal: Seal, trees: Sequence[Tree], heads: Sequence[Position]
) -> tuple[Sequence[Tree], list[str]]:
    """Grow the slices' trees up to a seal; return them, and how the log does not match the seal."""
    problems: list[str] = []
    after = list(trees)
    for number, (size, head) in enumerate(zip(seal.sizes, heads, strict=True)):
        try:
            after[number] = await grow(events, Slice(number), trees[number], size)
        except CorruptLog as error:
            problems.append(f"Seal {seal.number} covers {size} events of slice {number}. {error}")
            continue
        if head < size:
            problems.append(f"Seal {seal.number} covers {size} events of slice {number}, whose head is {head}")
    if not problems and log_root(after) != seal.root:
        problems.append(
            f"Seal {seal.number}: the root of the {seal.events} events that it covers is not the signed one. "
            "An event was changed or replaced, or the seal's sizes were changed"
        )
    return after, problems


def _check_signature(seal: Seal, verifier: Verifier) -> list[str]:
    if verifier.verify(seal.public_key, seal.signature, signed_text(seal)):
        return []
    return [f"Seal {seal.number} has an invalid signature for the key {seal.key_id}"]


async def _all_seals(seals: SealStore) -> AsyncIterator[Seal]:
    after = 0
    while page := await seals.page(after, PAGE_SEALS):
        for seal in page:
            yield seal
        after = page[-1].number
