"""The contract of stores of API keys and tenants."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from domain.errors import TenantExists, UnknownTenant
from domain.identity.api_keys import ApiKey
from domain.identity.tenants import TenantRecord
from domain.ids import DEFAULT_TENANT, Tenant
from domain.ports.identity import IdentityStore
from tests.streams import NOON
from tests.unit.test_api_keys import a_key

ACME = Tenant("acme")


async def test_at_first_there_is_one_tenant_and_no_key(identity_store: IdentityStore) -> None:
    assert [tenant.name for tenant in await identity_store.tenants(None, 10)] == [DEFAULT_TENANT]
    assert await identity_store.key("k") is None
    assert not (await identity_store.changes()).has_keys


@pytest.mark.parametrize(
    "key",
    [
        a_key(),
        a_key("x", id="Zz9", scopes=("threads:read", "admin"), created_by="ada", expires_at=NOON, replaces="k"),
        a_key(principal="日本, {x}", name='"quoted" \\'),
    ],
    ids=["plain", "full", "odd"],
)
async def test_a_key_is_kept_as_it_was(identity_store: IdentityStore, key: ApiKey) -> None:
    await identity_store.add_key(key)
    await identity_store.add_key(key)  # the first answer was lost
    assert await identity_store.key(key.id) == key
    assert await identity_store.keys(DEFAULT_TENANT, None, 10) == [key]
    changes = await identity_store.changes()
    assert (list(changes.keys), changes.has_keys) == ([key], True)


async def test_a_key_needs_its_tenant(identity_store: IdentityStore) -> None:
    with pytest.raises(UnknownTenant):
        await identity_store.add_key(a_key(tenant=ACME))
    assert await identity_store.key("k") is None


async def test_keys_are_listed_by_tenant_in_pages(identity_store: IdentityStore) -> None:
    await identity_store.add_tenant(TenantRecord(ACME, NOON))
    for key_id in ("b", "B", "a1", "_"):
        await identity_store.add_key(a_key(id=key_id))
    await identity_store.add_key(a_key(id="c", tenant=ACME))
    first = await identity_store.keys(DEFAULT_TENANT, None, 3)
    rest = await identity_store.keys(DEFAULT_TENANT, first[-1].id, 3)
    assert [key.id for key in [*first, *rest]] == ["B", "_", "a1", "b"]
    assert [key.id for key in await identity_store.keys(ACME, None, 3)] == ["c"]


async def test_the_earlier_end_of_a_key_counts(identity_store: IdentityStore) -> None:
    await identity_store.add_key(a_key(expires_at=NOON + timedelta(days=2)))
    later, earlier = NOON + timedelta(days=3), NOON + timedelta(days=1)
    for end in (later, earlier, later):
        ended = await identity_store.end_key("k", expires_at=end, revoked_at=None)
    assert ended is not None
    assert (ended.expires_at, ended.revoked_at) == (earlier, None)
    for instant in (NOON, later):
        ended = await identity_store.end_key("k", expires_at=None, revoked_at=instant)
    assert ended == await identity_store.key("k")
    assert ended is not None
    assert (ended.expires_at, ended.revoked_at) == (earlier, NOON)
    assert await identity_store.end_key("other", expires_at=NOON, revoked_at=None) is None


async def test_the_last_use_moves_forward(identity_store: IdentityStore) -> None:
    await identity_store.add_key(a_key())
    for minutes in (5, 3):
        await identity_store.note_uses({"k": NOON + timedelta(minutes=minutes), "unknown": NOON})
    found = await identity_store.key("k")
    assert found == replace(a_key(), last_used_at=NOON + timedelta(minutes=5))


async def test_a_tenant_is_made_once(identity_store: IdentityStore) -> None:
    tenant = TenantRecord(ACME, NOON, "ada")
    await identity_store.add_tenant(tenant)
    assert await identity_store.tenant(ACME) == tenant
    for again in (TenantRecord(ACME, NOON + timedelta(seconds=1)), TenantRecord(DEFAULT_TENANT, NOON)):
        with pytest.raises(TenantExists):
            await identity_store.add_tenant(again)
    assert await identity_store.tenant(ACME) == tenant
    assert [one.name for one in await identity_store.tenants(ACME, 10)] == [DEFAULT_TENANT]
    assert [one.name for one in await identity_store.tenants(None, 1)] == [ACME]


async def test_a_tenant_is_suspended_since_the_first_time(identity_store: IdentityStore) -> None:
    await identity_store.add_tenant(TenantRecord(ACME, NOON))
    for minutes in (1, 2):
        suspended = await identity_store.suspend(ACME, NOON + timedelta(minutes=minutes))
        assert suspended is not None
        assert suspended.suspended_at == NOON + timedelta(minutes=1)
    assert suspended in (await identity_store.changes()).tenants
    resumed = await identity_store.suspend(ACME, None)
    assert resumed == await identity_store.tenant(ACME) == TenantRecord(ACME, NOON)
    assert await identity_store.suspend(Tenant("unknown"), None) is None
