"""A process's sure end: whatever its event loop is blocked by, and however the loop ends."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infrastructure.settings import CHECKOUT

PRELUDE = """
import asyncio, ctypes, logging, sys, threading, time
from api.runtime.process import Process
logging.basicConfig(level="INFO", stream=sys.stderr)
process = Process(lease={lease}, stop_within={stop_within}, lifeline={lifeline})

def told(text):
    print(text, flush=True)

def sleep_in_c_whatever_signals_come():
    lock = ctypes.create_string_buffer(256)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)

def spin():
    while True:
        pass

async def never():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def leave():
    raise SystemExit(0)
"""


@contextmanager
def running(
    main: str, *, lease: float = 60.0, stop_within: float = 60.0, lifeline: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a process with this main coroutine, and wait until it has said a line."""
    lines = [
        PRELUDE.format(lease=lease, stop_within=stop_within, lifeline=lifeline),
        "async def main():",
        *main.splitlines(),
    ]
    script = "\n".join(lines) + "\nprocess.run(main)\n"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=() if lifeline is None else (lifeline,),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


STOPPING = """
    stop = asyncio.Event()
    process.on_stop(stop.set)
    process.begin()
"""


@pytest.mark.parametrize(
    "end", ["loop.call_soon(leave)", "loop.call_soon(loop.stop)", "asyncio.create_task(leaving())"]
)
def test_a_process_exits_when_its_loop_has_ended_under_it(end: str) -> None:
    main = f"""
    async def leaving():
        leave()
    loop = asyncio.get_running_loop()
    told("ready")
    others = [asyncio.create_task(never()), {end}]
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(3600)
"""
    with running(main) as process:
        status, err = ended(process)

    assert status == 70
    assert "The event loop has ended while the process was at work" in err


@pytest.mark.parametrize("block", ["time.sleep(3600)", "spin()", "sleep_in_c_whatever_signals_come()"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_blocked_process_ends_in_bounded_time_and_says_what_blocked_it(block: str, number: signal.Signals) -> None:
    main = f"""{STOPPING}
    def culprit():
        told("ready")
        {block}
    asyncio.get_running_loop().call_soon(culprit)
    await stop.wait()
"""
    with running(main, stop_within=0.5) as process:
        process.send_signal(number)
        status, err = ended(process)

    assert status == 70
    assert "The process did not stop within" in err
    assert re.search(r"in \w+\.<locals>\.culprit|, in culprit", err), err


def test_a_blocked_process_ends_when_its_parent_is_gone() -> None:
    ours, its = socket.socketpair()
    main = f"""{STOPPING}
    told("ready")
    time.sleep(3600)
"""
    with running(main, stop_within=0.5, lifeline=its.fileno()) as process:
        its.close()
        ours.close()
        status, err = ended(process)

    assert status == 70
    assert "The process did not stop within" in err


def test_a_process_ends_whose_log_is_read_by_nothing() -> None:
    main = f"""{STOPPING}
    told("ready")
    while True:
        logging.error("x" * 10_000)
"""
    with running(main, lease=1, stop_within=0.5) as process:
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 70


def test_a_second_signal_ends_a_process_that_does_not_stop() -> None:
    main = f"""{STOPPING}
    told("ready")
    await never()
"""
    with running(main, stop_within=3_600) as process:
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        status, err = ended(process)

    assert status == 70
    assert "The process did not stop" in err


def test_signals_reach_the_loop_of_a_process_that_is_not_blocked() -> None:
    main = f"""{STOPPING}
    told("ready")
    await stop.wait()
"""
    with running(main) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (0, "")


def test_neither_a_deaf_task_nor_a_thread_keeps_a_process_whose_work_is_done() -> None:
    main = """
    asyncio.create_task(never())
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
    await asyncio.sleep(0)
    told("ready")
"""
    with running(main) as process:
        status, err = ended(process)

    assert status == 0
    assert "exits without waiting" in err


def test_what_blocks_the_loop_is_logged_with_its_task_and_stack_and_that_it_goes_on() -> None:
    main = f"""{STOPPING}
    async def culprit():
        told("ready")
        time.sleep(4)
    await asyncio.create_task(culprit(), name="node 'x'")
    await asyncio.sleep(1)
"""
    with running(main, lease=2) as process:
        status, err = ended(process)

    assert status == 0
    blocked = re.findall(
        r"ERROR:api.runtime.watchdog:The event loop is blocked for (\d)\.\d s so far by the task \"node 'x'\"", err
    )
    assert blocked[:2] == ["1", "2"], err
    assert "time.sleep(4)" in err or ", in culprit" in err
    assert re.search(r"INFO:api.runtime.watchdog:The event loop goes on, after \d\.\d s", err)


async def test_a_process_that_was_paused_was_not_blocked() -> None:
    main = f"""{STOPPING}
    told("ready")
    await stop.wait()
"""
    with running(main, lease=2) as process:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1)
        process.send_signal(signal.SIGTERM)
        status, err = await asyncio.to_thread(ended, process)

    assert status == 0
    assert "blocked" not in err
