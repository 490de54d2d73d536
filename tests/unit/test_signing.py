"""Signing keys as the setting gives them, and their signatures."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from domain.log.seal import key_id_of
from infrastructure.settings import BadSetting, Settings, load_settings
from infrastructure.signing import Ed25519Verifier, new_key, signer_of

NO_FILE = Path("/nonexistent/.env")
SECRET = base64.b64encode(b"s3cret" * 6).decode()


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    hidden: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def test_a_new_key_signs_what_its_public_key_verifies_and_nothing_else() -> None:
    setting, signer = new_key()
    again, verify = signer_of(setting, Path("/")), Ed25519Verifier().verify
    signature = again.sign(b"text")

    assert again.public_key == signer.public_key
    assert again.key_id == key_id_of(signer.public_key)
    assert verify(signer.public_key, signature, b"text")
    assert not verify(signer.public_key, signature, b"other")
    assert not verify(new_key()[1].public_key, signature, b"text")
    assert not verify(b"no key", signature, b"text")
    assert not verify(signer.public_key, b"no signature", b"text")


def test_a_key_is_read_from_a_file_where_it_says(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(pem(key))

    for place in ("key.pem", str(tmp_path / "key.pem")):
        assert signer_of(place, tmp_path).public_key == key.public_key().public_bytes_raw()


def test_a_good_key_is_taken_and_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, _ = new_key()
    monkeypatch.setenv("SIGNING_KEY", f" {setting} ")
    monkeypatch.setenv("SEAL_EVERY", "1")

    settings = load_settings(NO_FILE)

    assert settings.signing_key is not None
    assert settings.signing_key.get_secret_value() == setting
    assert settings.seal_every == 1
    assert setting not in repr(settings)


@pytest.mark.parametrize("case", ["short", "no file", "a folder", "no PEM", "with a password", "another kind"])
def test_what_is_no_key_is_refused_in_one_line_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    files = {
        "no PEM": b"s3cret",
        "with a password": pem(ed25519.Ed25519PrivateKey.generate(), b"s3cret"),
        "another kind": pem(ec.generate_private_key(ec.SECP256R1())),
    }
    (tmp_path / "s3cret.pem").write_bytes(files.get(case, b""))
    places = {"short": SECRET, "no file": "/nonexistent/s3cret.pem", "a folder": str(tmp_path)}
    value = places.get(case, str(tmp_path / "s3cret.pem"))
    monkeypatch.setenv("SIGNING_KEY", value)

    with pytest.raises(BadSetting) as caught:
        load_settings(NO_FILE)

    message = str(caught.value)
    assert message.startswith("SIGNING_KEY=(hidden): expected 32 bytes in base64, or the path of a PEM file")
    assert value not in message
    assert "\n" not in message


@pytest.mark.parametrize(("value", "expected"), [("0.5", "greater than or equal to 1"), ("often", "valid number")])
def test_a_bad_interval_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("SEAL_EVERY", value)

    with pytest.raises(BadSetting, match=f"^SEAL_EVERY='{value}': .*{expected}"):
        load_settings(NO_FILE)
