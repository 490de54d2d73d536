"""An agent whose code misbehaves: what it does (`ACTS`), and where in its code (`PLACES`), is a turn's input.

`exit@node 3` raises SystemExit in a node. Whatever happens to this turn, it must not happen to others.
"""

import argparse
import asyncio
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.graph import Branch, Graph, Node
from domain.agents.tools import tool
from domain.json import Json, JsonObject
from domain.thread.events import END, NodeEvent
from domain.thread.state import Running

AGENTS = "tests.chaos.villain:villain"

TIMEOUT = 10.0
"""Seconds that the villain's nodes and tools may take."""

BLOCKED = 14.0
"""Seconds of blocking that ends by itself: longer than three leases of two seconds."""

FOR_EVER = 3_600.0

PRINTED = 2_000_000
"""Bytes that are printed to each of stdout and stderr: more than any pipe holds."""


class Unexpected(BaseException):
    """An error that is no `Exception`, such as pytest's and Trio's."""


def _raise(error: BaseException) -> None:
    raise error


def _parse_arguments() -> None:
    argparse.ArgumentParser(prog="villain").parse_args(["--no-such-option"])


def _exec_exit() -> None:
    exec("exit()")  # closes stdin as well


def _spin() -> None:
    while True:
        pass


def _hold_the_gil() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # no other thread of the process runs meanwhile


def _print_lines() -> None:
    for _ in range(PRINTED // 1_000):
        print("x" * 999)  # noqa: T201
        print("y" * 999, file=sys.stderr)  # noqa: T201


def _print_one_line() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.write("z" * PRINTED)
        stream.flush()


def _print_bytes() -> None:
    for descriptor in (1, 2):
        left = b"\xff\x00" * (PRINTED // 2)
        while left:
            left = left[os.write(descriptor, left[:65_536]) :]


def _exhaust_memory() -> None:
    # Zeroed pages that nobody touches take addresses, which the run limits, and hardly any memory.
    taken = []
    while True:
        taken.append(bytearray(64 * 1024 * 1024))


def _fault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


async def _be_deaf() -> None:
    while True:
        try:
            await asyncio.sleep(FOR_EVER)
        except asyncio.CancelledError:
            continue


async def _clean_up_slowly() -> None:
    try:
        await asyncio.sleep(FOR_EVER)
    finally:
        await asyncio.sleep(BLOCKED)


async def _never_end() -> None:
    await asyncio.sleep(FOR_EVER)


EXITS: Mapping[str, Callable[[], None]] = {
    "exit": lambda: _raise(SystemExit(2)),
    "keyboard": lambda: _raise(KeyboardInterrupt()),
    "generator": lambda: _raise(GeneratorExit()),
    "base": lambda: _raise(Unexpected("no Exception")),
    "argparse": _parse_arguments,
    "exec_exit": _exec_exit,
}
"""What raises something that is no `Exception`."""

PRINTS: Mapping[str, Callable[[], None]] = {
    "print_lines": _print_lines,
    "print_one_line": _print_one_line,
    "print_bytes": _print_bytes,
}
MEMORY: Mapping[str, Callable[[], None]] = {"memory": _exhaust_memory}
BLOCKS: Mapping[str, Callable[[], None]] = {
    "block": lambda: time.sleep(BLOCKED),
    "block_for_ever": lambda: time.sleep(FOR_EVER),
    "spin": _spin,
    "gil": _hold_the_gil,
}
DIES: Mapping[str, Callable[[], None]] = {
    "_exit_0": lambda: os._exit(0),
    "_exit_3": lambda: os._exit(3),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigsegv": _fault,
    "loop_stop": lambda: asyncio.get_running_loop().stop(),
}
"""What ends the process, or its event loop."""

WAITS: Mapping[str, Callable[[], Awaitable[None]]] = {
    "deaf": _be_deaf,
    "slow_cleanup": _clean_up_slowly,
    "never": _never_end,
}
"""What does not end when it is asked to, or not soon."""

SYNC: Mapping[str, Callable[[], None]] = {**EXITS, **PRINTS, **MEMORY, **BLOCKS, **DIES}
ACTS: Sequence[str] = (*SYNC, *WAITS)
PLACES: Sequence[str] = ("node", "tool", "item", "thread", "task", "callback", "branch", "approval")
_ASYNC_PLACES = frozenset({"node", "tool", "item", "task"})
_NOT_IN_A_THREAD = frozenset({"loop_stop", "spin"})
"""A thread has no running event loop to stop; and one that computes for ever can be ended by nobody but its process."""


def fits(act: str, place: str) -> bool:
    """Say whether something can be done in a place at all."""
    if act in WAITS:
        return place in _ASYNC_PLACES
    return not (act in _NOT_IN_A_THREAD and place == "thread")


def parted(text: str) -> tuple[str, str]:
    """Take a turn's input apart into what is to be done and where."""
    act, _, place = text.split(maxsplit=1)[0].partition("@")
    return act, place


async def _do(act: str) -> None:
    if act in WAITS:
        await WAITS[act]()
    else:
        SYNC[act]()


@tool(timeout=TIMEOUT)
async def misbehave(act: str) -> str:
    """Misbehave."""
    await _do(act)
    return "It was survived."


def _judge(arguments: JsonObject) -> bool:
    SYNC[str(arguments["act"])]()
    return False


@tool(timeout=TIMEOUT, approval=_judge)
async def ask_first(act: str) -> str:
    """Misbehave when it is asked whether a person has to agree."""
    return "It was survived."


async def _each(item: ItemContext, act: Json) -> Json:
    await _do(str(act))
    return "It was survived."


async def _act(turn: TurnContext) -> Sequence[NodeEvent]:
    act, place = parted(turn.user_input)
    match place:
        case "node":
            await _do(act)
        case "thread":
            await asyncio.to_thread(SYNC[act])
        case "item":
            await turn.map([act], _each)
        case "task":
            task = asyncio.create_task(_do(act))
            await asyncio.wait([task], timeout=1)
        case "callback":
            asyncio.get_running_loop().call_soon(SYNC[act])
            await asyncio.sleep(1)
        case "tool":
            return turn.request("misbehave", act=act)
        case "approval":
            return turn.request("ask_first", act=act)
    return [turn.say("It was survived.")]


async def _run_tools(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return [turn.say("The tools have run.")]


def _choose(state: Running) -> str:
    if state.turn.calls:
        return "tools"
    asked = next((m.content for m in reversed(state.thread.window) if m.role == "user"), None) or ""
    act, place = parted(asked)
    if place == "branch":
        SYNC[act]()
    return "end"


villain = Agent(
    Graph(
        "villain",
        "act",
        [Node("act", _act, timeout=TIMEOUT), Node("tools", _run_tools, timeout=2 * TIMEOUT)],
        {"act": Branch(_choose, {"tools": "tools", "end": END}), "tools": END},
    ),
    tools=[misbehave, ask_first],
)
