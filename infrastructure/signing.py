"""Ed25519 signatures."""

import base64
import pathlib
from contextlib import suppress

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from domain.log.seal import key_id_of

KEY_BYTES = 32
INVALID_KEY = "expected 32 bytes in base64, or the path of a PEM file with an Ed25519 private key"


class Ed25519Verifier:
    """A `Verifier`."""

    def verify(self, public_key: bytes, signature: bytes, text: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
        except (InvalidSignature, ValueError):
            return False
        return True


class Ed25519Signer:
    """A `Signer` with a key in memory. The private key is never printed."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_key)

    def sign(self, text: bytes) -> bytes:
        return self._key.sign(text)


def signer_of(setting: str, folder: pathlib.Path) -> Ed25519Signer:
    """Read the key of a setting: in base64, or the path of a PEM file. Relative paths start at `folder`.

    Raises:
        ValueError: the setting is not a key. The message does not contain the setting.
    """
    with suppress(ValueError):  # it is not in base64, or has another length
        return Ed25519Signer(Ed25519PrivateKey.from_private_bytes(base64.b64decode(setting, validate=True)))
    try:
        key = load_pem_private_key((folder / pathlib.Path(setting).expanduser()).read_bytes(), password=None)
    except (OSError, ValueError, TypeError, RuntimeError, UnsupportedAlgorithm):  # no file or PEM, a password, no home
        raise ValueError(INVALID_KEY) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(INVALID_KEY)  # noqa: TRY004  (pydantic expects ValueError)
    return Ed25519Signer(key)


def new_key() -> tuple[str, Ed25519Signer]:
    """Make a key. Return it as the setting's value, and as a signer."""
    key = Ed25519PrivateKey.generate()
    return base64.b64encode(key.private_bytes_raw()).decode(), Ed25519Signer(key)
