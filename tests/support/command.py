"""The real command line in processes of its own."""

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from infrastructure.settings import CHECKOUT

COMMAND = (sys.executable, "-m", "api")
PATIENCE = 60.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def environment(**settings: object) -> Mapping[str, str]:
    """This process's environment with other settings: those of the developer do not count, `.env`'s neither."""
    models = ("LLM_ENDPOINT", "LLM_SMALL_MODEL", "MODELS", "AIR_GAPPED", "EMBEDDING_ENDPOINT")
    unset = (*models, "AGENTS", "HOST", "PORT", "LOG_LEVEL")
    ours = {**dict.fromkeys(unset, ""), "COLUMNS": "100"}
    kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "DATA_DIR"}}
    return {**kept, **ours, **{name.upper(): str(value) for name, value in settings.items()}}


async def threadfold(*arguments: str, stdin: bytes = b"", **settings: object) -> Done:
    """Run `threadfold` to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        cwd=CHECKOUT,
        env=environment(**settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(stdin)
    return Done(process.returncode or 0, out.decode(), err.decode())


class Terminal:
    """`threadfold` with a terminal around it: what is typed, and what is seen (without colours)."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self._process = process
        self._master = master
        self._raw = b""
        self._seen = 0

    @property
    def screen(self) -> str:
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._raw.decode(errors="replace"))
        return text.replace("\r\n", "\n").replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def until(self, text: str) -> str:
        """Wait until a text is seen after the last one that was waited for, and return all up to it."""
        async with asyncio.timeout(PATIENCE):
            while (found := self.screen.find(text, self._seen)) < 0:
                if self._process.returncode is not None:
                    raise AssertionError(f"{text!r} never came:\n{self.screen}")
                await asyncio.sleep(0.02)
        begun, self._seen = self._seen, found + len(text)
        return self.screen[begun : self._seen]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    def read(self) -> None:
        try:
            self._raw += os.read(self._master, 65536)
        except OSError:  # nobody has the other side open any more
            asyncio.get_running_loop().remove_reader(self._master)


def hear_ctrl_c() -> None:
    """Undo what a shell does to what it starts in the background, and whatever that starts: ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def terminal(*arguments: str, **settings: object) -> AsyncIterator[Terminal]:
    """Run `threadfold` as the foreground process of a terminal, so that Ctrl-C and Ctrl-D reach it."""
    master, slave = pty.openpty()
    command: Sequence[str] = ("setsid", "--ctty", "--wait", *COMMAND, *arguments)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=CHECKOUT,
        env=environment(**settings),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=hear_ctrl_c,
    )
    os.close(slave)
    seen = Terminal(process, master)
    loop = asyncio.get_running_loop()
    loop.add_reader(master, seen.read)
    try:
        yield seen
    finally:
        loop.remove_reader(master)
        os.close(master)
        if process.returncode is None:
            process.kill()
        await process.wait()
