"""Makes seals of the log at regular intervals."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from msgspec.structs import asdict

from domain.application.audit.merkle_trees import EMPTY_TREES, grow_all
from domain.errors import CannotSeal, CorruptLog, StoreUnavailable
from domain.log.merkle import Tree, log_root
from domain.log.seal import Seal, next_statement, seal_digest, signed_text
from domain.ports.clock import Clock
from domain.ports.log import EventStore
from domain.ports.seals import SealStore, Signer, Verifier

_log = logging.getLogger(__name__)

NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(eq=False)
class Sealer:
    """Makes seals, and caches the trees of the last one, so that a process reads each event's hash once.

    Before a seal is made, the last one is checked: its signature, its key, and that the log still matches it. So a log
    that was changed since then is never sealed.

    It makes a seal every `every` seconds; without a signer, never.
    """

    events: EventStore
    seals: SealStore
    clock: Clock
    verifier: Verifier
    signer: Signer | None
    every: float
    _known: tuple[Seal | None, Sequence[Tree]] = (None, EMPTY_TREES)
    _tried_at: datetime = NEVER
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def make(self, *, new_key: bool = False) -> Seal | None:
        """Seal the log. Return the seal; None if there are no new events, or another process made the seal.

        With `new_key`, another key may have signed the last seal.

        Raises:
            CannotSeal: there is no key, or another key signed the last seal.
            CorruptLog: the log does not match the last seal, or that seal's signature is invalid.
        """
        if self.signer is None:
            raise CannotSeal
        last = await self.seals.last()
        trees = await self._trees_to_go_on_from(last, self.signer, new_key=new_key)
        heads = await self.events.slice_heads()
        for number, (head, tree) in enumerate(zip(heads, trees, strict=True)):
            if head < tree.size:
                raise CorruptLog(f"Slice {number}: its head is {head}, but {tree.size} events were sealed")
        key_changed = last is not None and last.public_key != self.signer.public_key
        if not key_changed and all(head == tree.size for head, tree in zip(heads, trees, strict=True)):
            return None
        after = await grow_all(self.events, trees, heads)
        statement = next_statement(last, after, self.clock.now(), self.signer.public_key)
        seal = Seal(**asdict(statement), signature=self.signer.sign(signed_text(statement)))
        if not await self.seals.append(seal):
            return None
        self._known = (seal, after)
        _log.info("Seal %s: %s events, root %s", seal.number, seal.events, seal.root.hex())
        return seal

    async def trees_at(self, seal: Seal) -> Sequence[Tree]:
        """Return the slices' trees at a seal. Raises `CorruptLog` if events are missing."""
        async with self._one_at_a_time:  # the next callers find what the first one read
            known, trees = self._known
            if known == seal:
                return trees
            trees = await grow_all(self.events, trees, seal.sizes)
            if log_root(trees) == seal.root and (known is None or known.number < seal.number):
                self._known = (seal, trees)
            return trees

    async def due(self) -> datetime | None:
        """Return when the next seal is due, if there are new events then; None if this process makes no seals."""
        if self.signer is None:
            return None
        last = await self.seals.last()
        now = self.clock.now()
        since = max(self._tried_at, min(last.at, now) if last else NEVER)  # another process's clock may be ahead
        return since + timedelta(seconds=self.every) if since != NEVER else now

    async def run(self) -> None:
        """Make seals for ever. Several processes may do so."""
        while True:
            try:
                due = await self.due() or NEVER
                if due <= (now := self.clock.now()):
                    self._tried_at = now
                    await self.make()
                    continue
                pause = (due - now).total_seconds()
            except (CorruptLog, CannotSeal) as error:
                _log.error("No seal was made: %s", error)
                pause = self.every
            except StoreUnavailable as error:
                _log.warning("No seal was made: %s", error)
                pause = 1.0
            await asyncio.sleep(pause)

    async def _trees_to_go_on_from(self, last: Seal | None, signer: Signer, *, new_key: bool) -> Sequence[Tree]:
        """Check the last seal; return the slices' trees at it."""
        known, _ = self._known
        if known is not None and (last is None or last.number < known.number):
            raise CorruptLog(f"Seal {known.number} is missing: the last one is {last.number if last else 'none'} now")
        if last is None:
            return EMPTY_TREES
        if last.public_key != signer.public_key and not new_key:
            raise CannotSeal(
                f"Seal {last.number} was signed with the key {last.key_id}, SIGNING_KEY is {signer.key_id}. "
                "If you changed the key, run: threadfold seals make --new-key"
            )
        if not self.verifier.verify(last.public_key, last.signature, signed_text(last)):
            raise CorruptLog(f"Seal {last.number} has an invalid signature")
        if known is not None and known.number == last.number and seal_digest(known) != seal_digest(last):
            raise CorruptLog(f"Seal {last.number} was replaced by another one")
        trees = await self.trees_at(last)
        if log_root(trees) != last.root:
            raise CorruptLog(
                f"The log does not match seal {last.number}. Run threadfold verify to find what was changed"
            )
        return trees
