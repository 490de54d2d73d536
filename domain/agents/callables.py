"""What kind of function an agent's author gave: asynchronous, or plain, or neither."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def is_async(function: object) -> bool:
    """Say whether calling something gives a coroutine: an async function, or an object or partial made of one."""
    function = _innermost(function)
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


def is_generator(function: object) -> bool:
    """Say whether calling something gives a generator, asynchronous or not: it would do nothing by itself."""
    function = _innermost(function)
    calls = (function, type(function).__call__) if callable(function) else (function,)
    return any(inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call) for call in calls)


def described(function: object) -> str:
    """Say what something is, for an error message."""
    function = _innermost(function)
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.isgeneratorfunction(function):
        return "a generator"
    return "a plain function" if inspect.isroutine(function) else type(function).__name__


def name_of(function: Callable[..., Any]) -> str | None:
    """Return a function's name, that of what a partial is made of; None if it is an object that is called."""
    name = getattr(_innermost(function), "__name__", None)
    return name if isinstance(name, str) else None


def doc_of(function: Callable[..., Any]) -> str | None:
    """Return the docstring of a function, or of the one that a partial is made of."""
    return inspect.getdoc(_innermost(function))


def _innermost(function: Any) -> Any:
    """Look through partials and decorators that name what they wrap."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__") and not inspect.iscoroutinefunction(function):
            function = function.__wrapped__
        else:
            return function
