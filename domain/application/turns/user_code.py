"""Running an agent's code: nodes, tools and items, each attempt in a task of its own.

Anything that the code raises becomes an ordinary failure of that attempt, even what would end the process: asyncio
raises `SystemExit` and `KeyboardInterrupt` out of the event loop for every task, so a task factory contains the tasks
that the code creates. A plain callback of the loop cannot be contained (`loop.call_soon(sys.exit)`): it ends the loop,
and with it the process.

Code that does not end after it was cancelled is abandoned: that is logged, and nothing waits for it.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeAlias, TypeVar

from domain.agents.error_text import error_text
from domain.errors import BudgetExhausted, LeaseLost, ThreadfoldError, TurnIsOver, UserCodeFailed, WaitsForPerson

_log = logging.getLogger(__name__)

T = TypeVar("T")

CLEANUP_TIMEOUT_S = 5.0
"""Seconds that an attempt at a node has to end after it was cancelled. Then it is abandoned."""

INNER_CLEANUP_SHARE = 0.8
"""The share of these seconds that a tool or an item has: then the log names it, and not the node that waits for it."""

MAX_LOGGED_FRAMES = 5
"""Frames of an abandoned attempt that are logged."""

MAX_LOGGED_TRACE_CHARS = 4_000
"""Characters of a traceback that are logged."""

SIGNALS = (TurnIsOver, LeaseLost, WaitsForPerson, BudgetExhausted)
"""Errors by which the runtime controls a turn. They pass through an agent's code, in exception groups as well."""

_in_user_code: ContextVar[bool] = ContextVar("in_user_code", default=False)
_abandoned: set["asyncio.Task[Any]"] = set()
"""Referenced here so that they are not collected before they end."""

TaskFactory: TypeAlias = Callable[..., "asyncio.Future[Any]"]


class DeadlinePassed(Exception):
    """The deadline of an attempt has passed, or the attempt was stopped."""


class Deadline:
    """When an attempt has to end. Time that passes while it is `paused` does not count."""

    def __init__(self, seconds: float) -> None:
        """Set the deadline, in seconds from now."""
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + seconds
        self._pauses = 0
        self._paused_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._expired: Callable[[], None] | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._at - (self._paused_at if self._pauses else self._loop.time())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside the block."""
        if not self._pauses:
            self._paused_at = self._loop.time()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._at += self._loop.time() - self._paused_at
                if self._expired and self._timer is None:
                    self._arm()

    def end_now(self) -> None:
        """Bring the deadline forward to now."""
        self._at = float("-inf")
        if self._expired:
            self._expired()

    async def passed(self) -> None:
        """Wait until it has passed."""
        over: asyncio.Future[None] = self._loop.create_future()
        self.watch(lambda: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            self.unwatch()

    def watch(self, expired: Callable[[], None]) -> None:
        """Call a function once the deadline has passed."""
        self._expired = expired
        self._arm()

    def unwatch(self) -> None:
        """Do not call the function any more."""
        self._expired = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_at(max(self._at, now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._expired is None:
            return
        if self._at == float("-inf") or (not self._pauses and self._at <= self._loop.time()):
            self._expired()
        elif not self._pauses:
            self._arm()


async def run_user_code(
    code: Callable[[], Awaitable[T]], name: str, deadline: Deadline | None = None, *, inner: bool = False
) -> T:
    """Run an agent's code in a task of this name. Returns its result, or raises its failure, an `Exception`.

    If the deadline passes, or this is cancelled, the code is cancelled. If it has not ended some seconds later, it is
    abandoned. `inner`: a node waits for this code.

    Raises:
        DeadlinePassed: the deadline has passed, and the code had no result.
    """
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    # Not by the loop's task factory: `_contained` contains everything already.
    task = asyncio.Task(_contained(code), loop=loop, name=name)
    task.add_done_callback(wake)
    if deadline is not None:
        deadline.watch(wake)
    cleanup = CLEANUP_TIMEOUT_S * (INNER_CLEANUP_SHARE if inner else 1)
    try:
        await woken
    except asyncio.CancelledError:
        await _cancel(task, cleanup)
        raise
    finally:
        if deadline is not None:
            deadline.unwatch()
    if not task.done():
        await _cancel(task, cleanup)
        if not task.done() or task.cancelled():
            raise DeadlinePassed
    elif task.cancelled():
        raise UserCodeFailed(_cancelled_itself(task))
    return task.result()


def call_user_code(function: Callable[..., T], *arguments: Any) -> T:
    """Call a plain function of an agent. Anything that it raises becomes an `Exception`."""
    token = _in_user_code.set(True)
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise _failure(error) from error
    finally:
        _in_user_code.reset(token)


def contain_tasks() -> None:
    """Contain the tasks that an agent's code creates in this event loop. Idempotent."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    if getattr(before, "contains", False):
        return

    def create(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> "asyncio.Future[Any]":
        if _in_user_code.get() and isinstance(work, Coroutine):
            work = _Containing(work)
        if before is not None:
            return before(loop, work, **more)
        return asyncio.Task(work, loop=loop, **more)

    create.contains = True  # type: ignore[attr-defined]
    loop.set_task_factory(create)


def where(task: "asyncio.Task[Any]") -> str:
    """Return where a task waits, from its outermost function to the innermost one."""
    frames: list[FrameType] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(frames) < 100:  # noqa: PLR2004  (a longer chain says nothing more)
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(waiting, f"{kind}_frame")), None)
        if kind is None:
            break
        frame = getattr(waiting, f"{kind}_frame")
        if frame is not None and frame.f_code.co_filename != __file__:
            frames.append(frame)
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
    shown = [f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" for frame in frames]
    return " > ".join(shown[-MAX_LOGGED_FRAMES:]) or "at an unknown place"


def trace_of(error: BaseException) -> str:
    """Return where an error was raised. Without its message, which may be of any length, or raise itself."""
    return "".join(traceback.format_tb(error.__traceback__))[-MAX_LOGGED_TRACE_CHARS:]


async def _contained(code: Callable[[], Awaitable[T]]) -> T:
    _in_user_code.set(True)
    try:
        return await code()
    except BaseExceptionGroup as group:
        signal = _signal_in(group)
        if signal is not None:
            raise signal from None
        if isinstance(group, Exception):
            raise
        raise _failure(group) from group
    except (Exception, asyncio.CancelledError):
        raise
    except GeneratorExit as error:
        running = _current_task()
        if running is None or getattr(running.get_coro(), "cr_frame", None) is not sys._getframe():  # noqa: SLF001
            raise  # the task is destroyed together with its event loop
        raise _failure(error) from error
    except BaseException as error:
        raise _failure(error) from error


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _signal_in(group: BaseExceptionGroup[BaseException]) -> ThreadfoldError | None:
    """Return the runtime's signal in a group that has nothing else: an agent's `TaskGroup` has wrapped it."""
    signals, others = group.split(SIGNALS)
    if signals is None or others is not None:
        return None
    first: BaseException = signals
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, ThreadfoldError) else None


def _failure(error: BaseException) -> UserCodeFailed:
    if isinstance(error, SystemExit | KeyboardInterrupt):
        text = error_text(error).removesuffix(": ")
        return UserCodeFailed(f"{text}: the code tried to end the process")
    if isinstance(error, asyncio.CancelledError):
        return UserCodeFailed(f"RuntimeError: cancelled itself: {error_text(error)}")
    return UserCodeFailed(f"{error_text(error).removesuffix(': ')}: this is not an ordinary error")


def _cancelled_itself(task: "asyncio.Task[Any]") -> str:
    try:
        task.result()
    except asyncio.CancelledError as error:
        return f"RuntimeError: cancelled itself: {error_text(error)}"
    return "RuntimeError: cancelled itself"


async def _cancel(task: "asyncio.Task[Any]", cleanup: float) -> None:
    """Cancel code, and wait for its end. If that takes too long, or this is cancelled too, abandon it."""
    task.cancel()
    try:
        if not task.done():
            await asyncio.wait([task], timeout=cleanup)
    finally:
        if not task.done():
            _abandon(task, cleanup)
        elif not task.cancelled():
            task.exception()  # read, so that asyncio does not log that it was never retrieved


def _abandon(task: "asyncio.Task[Any]", cleanup: float) -> None:
    _log.error(
        "%s was cancelled and has not ended within %g s. It is abandoned, and has no effect on the turn any more. It "
        "is at %s",
        _title(task),
        cleanup,
        where(task),
    )
    _abandoned.add(task)
    task.add_done_callback(_abandoned_ended)
    # The loop's shutdown cancels all tasks that it knows and waits for them without a limit.
    asyncio.tasks._unregister_task(task)  # noqa: SLF001  (public by the documentation: "Extending asyncio")


def _abandoned_ended(task: "asyncio.Task[Any]") -> None:
    _abandoned.discard(task)
    error = None if task.cancelled() else task.exception()
    _log.warning("%s, which was abandoned, has ended now%s", _title(task), f": {error_text(error)}" if error else "")


def _title(task: "asyncio.Task[Any]") -> str:
    name = task.get_name()
    return name[:1].upper() + name[1:]


class _Containing(Coroutine[Any, Any, Any]):
    """A coroutine that raises an ordinary error where another one would end the process.

    It is a class and not a coroutine function that awaits the inner one: if a task is cancelled before its first step,
    that would leave the inner coroutine unawaited.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _failure(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as ended:
            raise _failure(ended) from ended

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        """Look like the inner coroutine, for tools that show tasks and where they are."""
        return getattr(self._inner, name)
