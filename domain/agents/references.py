"""What the functions of nodes refer to: graphs that they map over lists, and what they call on their context.

Only the functions themselves are read, and the plain functions of their modules that they call. Nothing is run.
"""

import dis
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FunctionType
from typing import Any, TypeVar

from domain.agents.callables import innermost

T = TypeVar("T")

_READS = ("LOAD_ATTR", "LOAD_METHOD")


def mapped_by(function: Callable[..., Any], kind: type[T]) -> list[T]:
    """Return the objects of a kind that a function refers to by name, if it calls a method named `map` as well."""
    found: list[T] = []
    for part in _with_helpers(_plain(function)):
        if any("map" in code.co_names for code in _codes(part.__code__)):
            found += [value for value in _named(part) if isinstance(value, kind) and value not in found]
    return found


def calls_of_context(function: Callable[..., Any], names: Collection[str]) -> list[str]:
    """Return which of these methods a function calls on its first argument."""
    inner = _plain(function)
    code = getattr(inner if isinstance(inner, FunctionType) else type(inner).__call__, "__code__", None)
    if code is None:
        return []
    context = next((name for name in code.co_varnames[: code.co_argcount] if name != "self"), "")
    return sorted({name for part in _codes(code) for name in _read_from(part, context) if name in names})


def _read_from(code: CodeType, variable: str) -> Iterator[str]:
    before: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in _READS and before is not None and before.argval == variable:
            yield instruction.argval
        before = instruction


def _plain(function: Callable[..., Any]) -> Any:
    """Return the function of a partial, a decorator's wrapper or a method; another object as it is."""
    inner = innermost(function)
    return getattr(inner, "__func__", inner)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _with_helpers(function: Any, seen: set[int] | None = None) -> Iterator[FunctionType]:
    """Yield a function, and the functions of its module that it names."""
    seen = set() if seen is None else seen
    if not isinstance(function, FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    yield function
    for value in _named(function):
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            yield from _with_helpers(value, seen)


def _named(function: FunctionType) -> Iterator[Any]:
    """Yield the global variables and the variables of outer functions that a function names, if they are set."""
    for name in {name for code in _codes(function.__code__) for name in code.co_names}:
        if name in function.__globals__:
            yield function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is not set yet
            continue
