"""A process is ready if it can write, and says in plain words why it cannot."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from domain.errors import StoreUnavailable
from domain.log.hash_chain import EMPTY_HEAD
from infrastructure.postgres import retry
from infrastructure.postgres.log.event_store import PostgresEventStore
from tests.integration.test_unavailable_store import over, raising
from tests.streams import appending, new_thread
from tests.support.http import Api, running_api

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'threadfold'"
ON_PROBES = "CREATE TRIGGER trouble BEFORE INSERT OR UPDATE ON write_probes FOR EACH ROW EXECUTE FUNCTION trouble()"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_PAUSES_S", (0.01, 0.01))


async def readiness(api: Api) -> tuple[int, str]:
    answer = await api.get("/health/ready")
    return answer.status_code, answer.json().get("detail") or ""


async def until_ready(api: Api) -> None:
    async with asyncio.timeout(30):
        while (await readiness(api))[0] != 200:
            await asyncio.sleep(0.1)


async def test_a_process_that_may_not_write_is_not_ready(database_url: str, owner: asyncpg.Connection) -> None:
    async with running_api(database_url=database_url) as api:
        await until_ready(api)
        await owner.execute("REVOKE INSERT ON events FROM threadfold_app")
        status, why = await readiness(api)
        assert (status, "lacks INSERT on events" in why) == (503, True)
        await owner.execute("GRANT INSERT ON events TO threadfold_app; REVOKE ALL ON write_probes FROM threadfold_app")
        status, why = await readiness(api)
        assert (status, "permission" in why) == (503, True)
        await owner.execute("GRANT ALL ON write_probes TO threadfold_app")
        await until_ready(api)


async def test_a_server_that_takes_no_writes_makes_the_process_unready_and_ready_again(
    database_url: str, owner: asyncpg.Connection
) -> None:
    """The setting is of the database: sessions have it from their beginning, as at a standby."""
    name = urlsplit(database_url).path.lstrip("/")
    async with running_api(database_url=database_url) as api:
        await until_ready(api)
        await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'threadfold'"
        )
        async with asyncio.timeout(30):
            while "read-only" not in (await readiness(api))[1]:
                await asyncio.sleep(0.1)
        await owner.execute("SET default_transaction_read_only = off")
        await owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await until_ready(api)


async def test_what_appends_met_a_moment_ago_counts(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    """The disk may be full where events are, and not where the probe is."""
    store = PostgresEventStore(pool)
    await store.check_writable()
    await raising(owner, "53100")
    with pytest.raises(StoreUnavailable):
        await store.append(appending(new_thread(), EMPTY_HEAD, "{}"))
    with pytest.raises(StoreUnavailable, match="its disk is full"):
        await store.check_writable()
    await over(owner)
    await store.append(appending(new_thread(), EMPTY_HEAD, "{}"))
    await store.check_writable()


async def test_a_full_disk_is_named(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    await raising(owner, "53100")
    await owner.execute(ON_PROBES)
    with pytest.raises(StoreUnavailable, match="its disk is full"):
        await PostgresEventStore(pool).check_writable()


async def test_probes_of_processes_that_are_gone_do_not_stay(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    await PostgresEventStore(pool).check_writable()
    await owner.execute("UPDATE write_probes SET at = now() - interval '2 hours'")
    store = PostgresEventStore(pool)
    for _ in range(3):
        await store.check_writable()
    assert await owner.fetchval("SELECT count(*) FROM write_probes") == 1
