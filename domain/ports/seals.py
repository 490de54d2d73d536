"""Where seals are kept, and what signs and checks them."""

from collections.abc import Sequence
from typing import Protocol

from domain.log.seal import Seal


class SealStore(Protocol):
    """The seals of the log, numbered from 1 without gaps. None is ever changed."""

    async def append(self, seal: Seal) -> bool:
        """Store the seal that follows on the last one; return False, with nothing stored, if its number does not."""

    async def last(self) -> Seal | None:
        """Return the seal with the highest number, or None if there is none."""

    async def get(self, number: int) -> Seal | None:
        """Return the seal with this number, or None."""

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        """Return at most `limit` seals with a higher number than `after`, in their order."""


class Verifier(Protocol):
    """Checks signatures."""

    def verify(self, public_key: bytes, signature: bytes, text: bytes) -> bool:
        """Say whether the holder of a key has signed a text. False, too, for what is no key or signature at all."""


class Signer(Protocol):
    """Holds a key and signs with it."""

    @property
    def public_key(self) -> bytes:
        """Return the key's public part."""

    @property
    def key_id(self) -> str:
        """Name the key: see `domain.log.seal.key_id_of`."""

    def sign(self, text: bytes) -> bytes:
        """Sign a text."""
