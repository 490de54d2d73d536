"""Children: what they print goes on, they are replaced when they die or are silent, and none outlives its end."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from api.runtime import output as output_module
from api.runtime.output import Output
from api.runtime.process import READY
from api.runtime.subprocesses import Subprocess, SubprocessEnded
from api.runtime.watchdog import Silence
from domain.application.background_tasks import BackgroundTasks

PRELUDE = """
import os, socket, sys, time
lifeline = socket.socket(fileno=int(sys.argv[-1]))
def beat(words="r"):
    lifeline.send(words.encode() + b"\\n")
def beat_on():
    while True:
        beat()
        time.sleep(0.05)
"""

PATIENCE = 60.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def child(script: str, output: Output, *, silence: float = 60.0, stop_within: float = 60.0) -> Subprocess:
    program = (sys.executable, "-u", "-c", PRELUDE + script)
    return Subprocess("child", (), {}, output, silence, stop_within=stop_within, program=program)


@asynccontextmanager
async def kept(one: Subprocess, pause: float = 0.05) -> AsyncIterator[BackgroundTasks]:
    tasks = BackgroundTasks()
    task = tasks.start("child", one.run, first_pause=pause, longest_pause=pause)
    try:
        yield tasks
    finally:
        await tasks.stop(task)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Pipe:
    """An output whose reader we are."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.output = Output(self.writing, patience=PATIENCE)

    async def read(self, size: int) -> bytes:
        """Read so many bytes in a thread of its own."""

        def all_of_it() -> bytes:
            found = bytearray()
            while len(found) < size and (more := os.read(self.reading, 65_536)):
                found += more
            return bytes(found)

        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(all_of_it)


@pytest.mark.parametrize("end", ["\n", ""])
async def test_all_that_a_child_prints_arrives(end: str) -> None:
    pipe = Pipe()
    script = f"beat()\nfor n in range(10_000): print(str(n) + 'x' * 1_000, end={end!r})\nsys.exit()"
    expected = "".join(str(n) + "x" * 1_000 + end for n in range(10_000)).encode()
    async with kept(child(script, pipe.output), pause=3_600):
        assert await pipe.read(len(expected)) == expected


async def test_a_child_prints_on_while_nothing_reads_and_what_is_dropped_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "STALLED_S", 0.1)
    pipe = Pipe()
    one = child("for n in range(10_000): print('x' * 999)\nbeat()\nprint('the end')\nbeat_on()", pipe.output)
    async with kept(one):
        await asyncio.wait_for(one.ready.wait(), PATIENCE)  # it has printed 10 MB, and a pipe takes 64 kB
        assert "The standard output is not read fast enough" in caplog.text
        assert pipe.output._size <= output_module.MAX_QUEUED_BYTES + output_module.CHUNK_BYTES
        await pipe.read(3 << 20)
        await until(lambda: "bytes were dropped" in caplog.text)


async def test_a_slow_reader_makes_a_child_wait_for_a_bounded_time_in_all(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe()
    pipe.output = Output(pipe.writing, patience=0.5)
    one = child("for n in range(40_000): print('x' * 999)\nbeat()\nbeat_on()", pipe.output)
    async with kept(one):
        async with asyncio.timeout(PATIENCE):
            while not one.ready.is_set():
                await pipe.read(4_096)
                await asyncio.sleep(0.05)  # 80 kB a second: 40 MB would take eight minutes
    assert "The standard output is not read fast enough" in caplog.text


async def test_a_closed_output_stops_neither_child_nor_parent(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe()
    os.close(pipe.reading)
    one = child("for n in range(10_000): print('x' * 999)\nbeat()\nbeat_on()", pipe.output)
    async with kept(one):
        await asyncio.wait_for(one.ready.wait(), PATIENCE)
    assert "The standard output fails (Broken pipe)" in caplog.text


async def test_a_child_that_has_none_prints_nowhere() -> None:
    one = child("for n in range(1_000): print('x' * 999)\nbeat()\nbeat_on()", Output(None))
    async with kept(one):
        await asyncio.wait_for(one.ready.wait(), PATIENCE)


async def test_a_child_that_dies_is_replaced_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    script = f"import pathlib; mark = pathlib.Path({str(mark)!r})\n"
    script += "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\nbeat_on()"
    one = child(script, Output(None))
    async with kept(one) as tasks:
        await asyncio.wait_for(one.ready.wait(), PATIENCE)
        assert [status.restarts for status in tasks.statuses()] == [1]
    assert "ended by SIGKILL" in caplog.text


async def test_a_child_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, errors = (
        subprocess.Popen,
        [OSError(24, "Too many open files"), BlockingIOError(11, "Try again"), MemoryError()],
    )

    def failing(*arguments: Any, **how: Any) -> subprocess.Popen[bytes]:
        if errors:
            raise errors.pop(0)
        return start(*arguments, **how)

    monkeypatch.setattr("api.runtime.subprocesses.subprocess.Popen", failing)
    before = descriptors()
    one = child("beat_on()", Output(None))
    async with kept(one) as tasks:
        await asyncio.wait_for(one.ready.wait(), PATIENCE)
        assert [status.restarts for status in tasks.statuses()] == [3]
    await until(lambda: descriptors() <= before)
    assert "Too many open files" in caplog.text


async def test_a_silent_child_is_killed_and_replaced_with_what_it_had_started(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = "import subprocess\nother = subprocess.Popen(['sleep', '3600'])\n"
    script += f"with open({str(pids)!r}, 'a') as out: out.write(f'{{os.getpid()}} {{other.pid}}\\n')\n"
    script += "beat()\ntime.sleep(3600)"  # silence counts from the first beat on: all is written by then
    async with kept(child(script, Output(None), silence=0.5)):
        await until(lambda: pids.exists() and pids.read_text().count("\n") >= 2)
        first = [int(pid) for pid in pids.read_text().splitlines()[0].split()]
        await until(lambda: not any(map(runs, first)))
    assert "has sent no heartbeat for 0.5" in caplog.text
    assert "it is killed and replaced" in caplog.text
    everyone = [int(pid) for pid in pids.read_text().split()]
    await until(lambda: not any(map(runs, everyone[::2])))


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False


@pytest.mark.parametrize("hurry", [False, True])
async def test_a_child_that_does_not_stop_is_killed(hurry: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid())\nbeat_on()"
    pipe = Pipe()
    one = child(script, pipe.output, stop_within=3_600 if hurry else 0.2)
    if hurry:
        one.hurry.set()
    async with kept(one):
        pid = int(await pipe.read(2))
    assert not runs(pid)
    assert ("is stopped at once" if hurry else "did not stop within 0.2 s") in caplog.text


async def test_no_heartbeat_is_lost_that_comes_while_the_parent_is_blocked() -> None:
    one = child("", Output(None), silence=2.0)
    ours, its = socket.socketpair()
    with ours, its:
        ours.settimeout(0)
        listening = asyncio.create_task(one._listen(ours))
        await asyncio.sleep(0.01)  # it waits for something to read
        its.send(f"{READY}\n".encode())
        time.sleep(0.5)  # noqa: ASYNC251  (then it may look, and what was sent can be read, at the same time)
        await until(one.ready.is_set)
        listening.cancel()
        await asyncio.wait([listening])


async def test_a_child_says_what_does_not_work_in_it() -> None:
    one = child("beat('sshards')\ntime.sleep(0.5)\nbeat('rshards')\ntime.sleep(3600)", Output(None))
    async with kept(one):
        await until(lambda: one.ailing == "shards")
        await asyncio.wait_for(one.ready.wait(), PATIENCE)
        assert one.ailing == "shards"
    assert one.ailing is None


async def test_what_a_child_has_started_may_hold_its_output_open_and_the_child_is_replaced_all_the_same() -> None:
    one = child("import subprocess\nsubprocess.Popen(['sleep', '20'])\nos._exit(3)", Output(None))
    with pytest.raises(SubprocessEnded, match="ended with status 3"):
        await asyncio.wait_for(one.run(), 15)


def test_silence_counts_only_time_in_which_the_listener_ran() -> None:
    silence = Silence(1.0, 0.0)
    assert [silence.look(now) for now in (1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0]
    assert silence.look(1_000.0) == 5.0
    silence.heard()
    assert silence.look(1_001.0) == 1.0


async def test_a_process_whose_work_is_over_may_take_longer_to_end_than_its_loop_may_be_silent() -> None:
    script = """
import sys, time
from api.runtime.process import Process
process = Process(1.0, lifeline=int(sys.argv[-1]))
async def work():
    process.ready()
    process.begin()
process.run(work)
time.sleep(2)  # as an interpreter may on a busy machine, which throws away all that it has
"""
    program = (sys.executable, "-c", script)
    one = Subprocess("child", (), {}, Output(None), 0.3, stop_within=PATIENCE, program=program)
    with pytest.raises(SubprocessEnded) as ended:
        await one.run()
    assert ended.value.status == 0, "it was killed, and what it ran would be to blame for that"
