"""The store of seals, their signer and their verifier."""

from collections.abc import Sequence
from typing import Protocol

from domain.log.seal import Seal


class SealStore(Protocol):
    """Stores the seals of the log, numbered from 1 without gaps. Seals never change."""

    async def append(self, seal: Seal) -> bool:
        """Store the next seal; return False, and store nothing, if its number is not the next one."""

    async def last(self) -> Seal | None:
        """Return the seal with the highest number, or None."""

    async def get(self, number: int) -> Seal | None:
        """Return the seal with this number, or None."""

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        """Return at most `limit` seals with numbers higher than `after`, in ascending order."""


class Verifier(Protocol):
    """Checks signatures."""

    def verify(self, public_key: bytes, signature: bytes, text: bytes) -> bool:
        """Return whether the key signed the text. False also for bytes that are not a key or not a signature."""


class Signer(Protocol):
    """Holds a key and signs with it."""

    @property
    def public_key(self) -> bytes:
        """The key's public part."""

    @property
    def key_id(self) -> str:
        """The key's id: see `domain.log.seal.key_id_of`."""

    def sign(self, text: bytes) -> bytes:
        """Sign a text."""
