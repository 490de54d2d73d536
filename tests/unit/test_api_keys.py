"""API keys: their form, their digests, and how long they are valid."""

import string
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.errors import InvalidInput
from domain.identity.api_keys import ENTROPY_BYTES, ApiKey, digest_of, id_of, new_token, rotated
from domain.identity.scopes import SCOPES, scopes_of
from domain.identity.tenants import tenant_of
from domain.ids import DEFAULT_TENANT
from tests.streams import NOON

ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
CHARACTERS = string.ascii_letters + string.digits + "_"


def a_key(token: str = "", **more: object) -> ApiKey:
    key = ApiKey("k", digest_of(token), DEFAULT_TENANT, "shop", "shop", ("threads:read",), NOON)
    return replace(key, **more)


@given(ENTROPY)
def test_a_key_has_an_id_and_only_word_characters(entropy: bytes) -> None:
    token = new_token(entropy)
    assert token.startswith("tf_live_")
    assert set(token) <= set(CHARACTERS)  # a double click selects it as a whole
    assert id_of(token) == token.split("_")[2]
    assert a_key(token).is_of(token)


@given(ENTROPY, ENTROPY)
def test_different_bytes_make_different_keys(one: bytes, other: bytes) -> None:
    assert (one == other) == (new_token(one) == new_token(other))


@given(ENTROPY, st.data())
def test_an_altered_key_is_refused_without_a_look_up(entropy: bytes, data: st.DataObject) -> None:
    token = new_token(entropy)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(CHARACTERS).filter(lambda character: character != token[at]))
    assert id_of(token[:at] + other + token[at + 1 :]) is None


@given(ENTROPY, st.integers(0, 60))
def test_a_part_of_a_key_is_no_key(entropy: bytes, length: int) -> None:
    token = new_token(entropy)
    assert id_of(token[: min(length, len(token) - 1)]) is None
    assert id_of(token + token) is None
    assert id_of(f" {token}") is None
    assert id_of(f"{token}\n") is None


@given(st.text(max_size=200))
def test_other_texts_are_no_keys(text: str) -> None:
    assert id_of(text) is None


def test_a_key_ends_at_its_instants() -> None:
    key = a_key(expires_at=NOON + timedelta(hours=1), revoked_at=NOON + timedelta(minutes=30))
    statuses = [key.status(NOON + timedelta(minutes=minutes)) for minutes in (0, 29, 30, 60)]
    assert statuses == ["active", "active", "revoked", "revoked"]
    assert a_key(expires_at=NOON).status(NOON) == "expired"


def test_a_rotated_key_lives_for_the_overlap_and_its_successor_as_long_as_it() -> None:
    token, day = new_token(bytes(ENTROPY_BYTES)), timedelta(days=1)
    old, successor = rotated(a_key(expires_at=NOON + 30 * day), token, NOON + 10 * day, "ada", day)
    assert old.expires_at == NOON + 11 * day
    assert successor.expires_at == NOON + 40 * day
    assert (successor.id, successor.replaces, successor.created_by) == (id_of(token), "k", "ada")
    assert successor.is_of(token)
    soon, _ = rotated(a_key(expires_at=NOON + day), token, NOON, None, 7 * day)
    assert soon.expires_at == NOON + day, "a rotation never makes a key live longer"


def test_scopes_have_one_order_and_no_repetitions() -> None:
    assert scopes_of(["admin", "threads:read", "admin"]) == ("threads:read", "admin")
    assert scopes_of(SCOPES) == SCOPES
    for bad in (["read"], [], ["admin", ""]):
        with pytest.raises(InvalidInput, match="scopes"):
            scopes_of(bad)


@pytest.mark.parametrize("name", ["", "Acme", "a b", "a/b", "-a", "ä", "a" * 64, "a\n"])
def test_odd_names_of_tenants_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="tenant"):
        tenant_of(name)
