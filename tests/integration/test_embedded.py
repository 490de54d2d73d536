import asyncio
import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import asyncpg
import pytest

from infrastructure.embedded.account import EmbeddedPostgresFailed
from infrastructure.embedded.memory import buffers, memory
from infrastructure.embedded.server import EmbeddedPostgres
from tests.support.embedded import ANOTHER_PROCESS, CHECKOUT, ask, kill_server, postmaster_of, runs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")

Begin = Callable[[], subprocess.Popen[str]]


@pytest.fixture(name="empty_dir")
def _empty_dir(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    data_dir = tmp_path / ".data" / "postgres"
    yield data_dir
    kill_server(data_dir)


@pytest.fixture(name="used_before", scope="module")
def _used_before(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp("used") / "postgres"
    EmbeddedPostgres.start(data_dir).stop()
    return data_dir


@pytest.fixture(name="data_dir")
def _data_dir(empty_dir: pathlib.Path, used_before: pathlib.Path) -> pathlib.Path:
    """Data that a process has used before: a copy is quicker than initdb."""
    empty_dir.parent.mkdir()
    subprocess.run(["cp", "-a", used_before, empty_dir], check=True)
    return empty_dir


@pytest.fixture(name="begin")
def _begin(empty_dir: pathlib.Path) -> Iterator[Begin]:
    """Another process that uses the same data; closing its stdin ends it in good order."""
    with contextlib.ExitStack() as processes:

        def begin() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", ANOTHER_PROCESS, empty_dir],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield begin


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


def _socket_directory(url: str) -> pathlib.Path:
    return pathlib.Path(url.partition("host=")[2].partition("&")[0])


def test_what_was_written_is_there_at_the_next_start(empty_dir: pathlib.Path) -> None:
    first = EmbeddedPostgres.start(empty_dir)
    ask(first.url(), "CREATE TABLE kept AS SELECT 'Grüße 🙂' AS words")
    first.stop()
    assert not runs(empty_dir)

    began = time.monotonic()
    second = EmbeddedPostgres.start(empty_dir)
    took = time.monotonic() - began

    assert ask(second.url(), "SELECT words FROM kept") == "Grüße 🙂"
    second.stop()
    assert took < 30, "it does not wait for locks or for a recovery"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset by peer"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection due to unexpected postmaster exit"),
        asyncpg.InterfaceError("connection is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_a_dying_server_ends_is_made_again(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    connect, errors = asyncpg.connect, [error]

    async def dying(url: str) -> asyncpg.Connection:
        if errors:
            raise errors.pop()
        return await connect(url)

    monkeypatch.setattr(asyncpg, "connect", dying)
    server = EmbeddedPostgres.start(data_dir)

    monkeypatch.undo()
    assert ask(server.url(), "SELECT 1") == 1
    server.stop()


def test_stopping_twice_does_nothing_more(data_dir: pathlib.Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    other = EmbeddedPostgres.start(data_dir)
    server.stop()
    server.stop()

    assert runs(data_dir)
    other.stop()
    assert not runs(data_dir)


def test_nothing_is_lost_for_speed_and_any_text_is_stored(data_dir: pathlib.Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
    }

    assert {name: ask(server.url(), f"SHOW {name}") for name in expected} == expected
    assert ask(server.url(), "SELECT lower('ÄΣ')") == "äσ"
    assert ask(
        server.url(), f"SELECT pg_size_bytes(current_setting('shared_buffers')) = pg_size_bytes('{buffers(memory())}')"
    )
    server.stop()


def test_processes_share_one_server_and_the_last_one_stops_it(empty_dir: pathlib.Path, begin: Begin) -> None:
    processes = [begin() for _ in range(3)]  # all at once, on an empty directory
    url, *others = [_said(process) for process in processes]
    postmaster = postmaster_of(empty_dir)

    for process in processes[:-1]:
        _end(process)
        assert postmaster_of(empty_dir) == postmaster
        assert ask(url, "SELECT 1") == 1
    _end(processes[-1])

    assert others == [url, url]
    assert not runs(empty_dir)


def test_a_server_whose_process_was_killed_is_taken_over_and_stopped(data_dir: pathlib.Path, begin: Begin) -> None:
    process = begin()
    _said(process)
    process.kill()
    process.wait()
    left = postmaster_of(data_dir)

    server = EmbeddedPostgres.start(data_dir)

    assert postmaster_of(data_dir) == left
    server.stop()
    assert not runs(data_dir)


def test_a_killed_process_does_not_count_as_living(data_dir: pathlib.Path, begin: Begin) -> None:
    killed, last = begin(), begin()
    _said(killed)
    _said(last)
    killed.kill()
    killed.wait()

    _end(last)

    assert not runs(data_dir)


def test_after_a_crash_the_server_recovers_whatever_has_its_process_id_by_now(
    data_dir: pathlib.Path, begin: Begin
) -> None:
    process = begin()
    url = _said(process)
    ask(url, "CREATE TABLE kept AS SELECT 1 AS one")
    process.kill()
    process.wait()
    lock_files = [data_dir / "cluster" / "postmaster.pid", _socket_directory(url) / ".s.PGSQL.5432.lock"]
    stale = {path: path.read_text(encoding="utf-8") for path in lock_files}
    postmaster = postmaster_of(data_dir)
    kill_server(data_dir)
    for path, text in stale.items():
        path.write_text(text.replace(str(postmaster), str(os.getpid()), 1), encoding="utf-8")

    server = EmbeddedPostgres.start(data_dir)

    assert ask(server.url(), "SELECT one FROM kept") == 1
    server.stop()


def test_an_interrupted_initdb_is_begun_anew(empty_dir: pathlib.Path) -> None:
    half_done = empty_dir / "cluster.new"
    half_done.mkdir(parents=True)
    (half_done / "PG_VERSION").write_text("18\n", encoding="utf-8")

    server = EmbeddedPostgres.start(empty_dir)

    assert ask(server.url(), "SELECT 1") == 1
    server.stop()


@pytest.mark.parametrize("name", ["long" * 50, "a b,c:d'e\"%f é"])
def test_a_path_that_no_socket_or_url_takes_gets_a_private_directory_for_its_socket(
    tmp_path: pathlib.Path, name: str
) -> None:
    data_dir = tmp_path / name / "postgres"
    server = EmbeddedPostgres.start(data_dir)
    try:
        directory = _socket_directory(server.url())
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert ask(server.url(), "SELECT current_database()") == "threadfold"
    finally:
        server.stop()
    assert not directory.exists()


def test_a_directory_of_someone_else_is_not_taken_for_the_socket(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.embedded.account.SHORT_DIRECTORIES", tmp_path)
    digest = hashlib.sha256(os.fsencode(tmp_path / "a b" / "cluster")).hexdigest()
    (tmp_path / f"threadfold-{digest[:16]}").mkdir(mode=0o755)

    with pytest.raises(EmbeddedPostgresFailed, match="not a private directory of ours"):
        EmbeddedPostgres.start(tmp_path / "a b")


def test_neither_a_taken_port_nor_the_callers_variables_matter(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "/nowhere", "PGUSER": "x", "PGDATABASE": "x", "PGDATA": "/x"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 5432))
            taken.listen()
        server = EmbeddedPostgres.start(data_dir)
        assert ask(server.url(), "SELECT 1") == 1
        server.stop()


def test_the_server_and_its_programs_know_none_of_the_callers_secrets(
    empty_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLM_API_KEY", "SIGNING_KEY", "DATABASE_URL", "A_KEY_THAT_MODELS_TOML_NAMES"):
        monkeypatch.setenv(name, "marker-secret")
    server = EmbeddedPostgres.start(empty_dir)

    ask(server.url(), "CREATE TABLE seen (line text)")
    ask(server.url(), "COPY seen FROM PROGRAM 'env'")
    names = ask(server.url(), "SELECT string_agg(line, ' ') FROM seen")
    begun_with = (pathlib.Path("/proc") / str(postmaster_of(empty_dir)) / "environ").read_bytes()
    server.stop()

    assert isinstance(names, str)
    assert "TZ=UTC" in names
    assert "marker-secret" not in names
    assert b"marker-secret" not in begun_with


def test_only_the_servers_account_and_root_can_reach_the_socket(data_dir: pathlib.Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    directory = _socket_directory(server.url()).stat()

    assert stat.S_IMODE(directory.st_mode) == 0o700
    assert directory.st_uid == pathlib.Path(f"/proc/{postmaster_of(data_dir)}").stat().st_uid
    assert directory.st_uid != 0
    server.stop()


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_server(data_dir: pathlib.Path) -> None:
    server = EmbeddedPostgres.start(data_dir)

    assert os.getsid(postmaster_of(data_dir)) != os.getsid(0)
    server.stop()


def test_a_database_is_made_once_whatever_its_name(data_dir: pathlib.Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    name = 'a "b" & ü/?'
    server.ensure_database(name)
    server.ensure_database(name)

    assert ask(server.url(name), "SELECT current_database()") == name
    server.stop()


def test_a_directory_that_cannot_be_used_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")

    with pytest.raises(EmbeddedPostgresFailed, match="set DATABASE_URL") as caught:
        EmbeddedPostgres.start(tmp_path / "file" / "postgres")
    assert "\n" not in str(caught.value)


def test_the_servers_own_reason_is_told_in_one_line(data_dir: pathlib.Path) -> None:
    (data_dir / "cluster" / "postgresql.conf").write_text("no_such_setting = 1\n", encoding="utf-8")

    with pytest.raises(EmbeddedPostgresFailed, match=r"configuration file .* contains errors") as caught:
        EmbeddedPostgres.start(data_dir)
    assert "\n" not in str(caught.value)
    assert str(data_dir / "server.log") in str(caught.value)


@as_root
def test_a_copy_that_root_has_made_is_used(data_dir: pathlib.Path) -> None:
    for path in (data_dir / "cluster", *(data_dir / "cluster").rglob("*")):
        os.chown(path, 0, 0)

    server = EmbeddedPostgres.start(data_dir)

    assert ask(server.url(), "SELECT 1") == 1
    server.stop()


@as_root
def test_binaries_that_the_servers_account_cannot_execute_are_copied_once(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = pathlib.Path(f"/var/tmp/threadfold-test-{os.getpid()}")  # tmp_path is closed to others
    monkeypatch.setattr("infrastructure.embedded.account.SHARED_COPIES", copies)
    monkeypatch.setattr("infrastructure.embedded.account._can_execute", lambda *_: False)
    try:
        server = EmbeddedPostgres.start(data_dir)
        executable = pathlib.Path(f"/proc/{postmaster_of(data_dir)}/exe").resolve()
        server.stop()
        assert [copies] == [parent for parent in executable.parents if parent == copies]
        assert len(list(copies.iterdir())) == 1
    finally:
        subprocess.run(["rm", "-rf", copies], check=True)
    assert stat.S_IMODE(tmp_path.parent.stat().st_mode) == 0o700


async def test_of_several_processes_that_keep_a_server_up_one_starts_it_and_none_once_it_is_stopped(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("infrastructure.embedded.server.KEEP_UP_POLL_S", 0.01)
    caplog.set_level("INFO")
    servers = [await asyncio.to_thread(EmbeddedPostgres.start, data_dir) for _ in range(3)]
    keeping = [asyncio.create_task(server.keep_up()) for server in servers]
    first = postmaster_of(data_dir)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(60):
        while "answers again" not in caplog.text:
            await asyncio.sleep(0.01)
    assert postmaster_of(data_dir) != first
    assert await asyncio.to_thread(ask, servers[0].url(), "SELECT 1") == 1
    for server in servers:
        await asyncio.to_thread(server.stop)
    for task in keeping:  # they look on, as a process that ends does for a moment
        assert not task.done()
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    assert not runs(data_dir)
    assert caplog.text.count("It is restarted") == 1
