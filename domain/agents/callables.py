"""Inspects the functions of agents and tools: whether they are async, plain, or generators."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def is_async(function: object) -> bool:
    """Return whether a call returns a coroutine: of an async function, or of an object or a partial made of one."""
    function = innermost(function)
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


def is_generator(function: object) -> bool:
    """Return whether a call returns a generator, async or not. Such a call alone would run nothing."""
    function = innermost(function)
    calls = (function, type(function).__call__) if callable(function) else (function,)
    return any(inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call) for call in calls)


def described(function: object) -> str:
    """Describe an object for an error message."""
    function = innermost(function)
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.isgeneratorfunction(function):
        return "a generator"
    return "a plain function" if inspect.isroutine(function) else type(function).__name__


def name_of(function: Callable[..., Any]) -> str | None:
    """Return the name of a function, or of a partial's function; None for a callable object."""
    name = getattr(innermost(function), "__name__", None)
    return name if isinstance(name, str) else None


def doc_of(function: Callable[..., Any]) -> str | None:
    """Return the docstring of a function, or of a partial's function."""
    return inspect.getdoc(innermost(function))


def innermost(function: Any) -> Any:
    """Unwrap partials, and decorators that set `__wrapped__`."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__") and not inspect.iscoroutinefunction(function):
            function = function.__wrapped__
        else:
            return function
