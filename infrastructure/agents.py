"""Agents of the user's own, named in `AGENTS` as `module:attribute`."""

import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from domain.agent import Agent
from infrastructure.settings import BadSetting


def load_agents(names: Iterable[str]) -> Sequence[Agent]:
    """Import each named agent. Modules are looked for in the working directory, too.

    Raises:
        BadSetting: a name does not lead to an `Agent`.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return [_load(name) for name in names]


def _load(name: str) -> Agent:
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadSetting(f"AGENTS={name}: {error}") from error
    if not isinstance(found, Agent):
        raise BadSetting(f"AGENTS={name}: this is {type(found).__name__}; expected an Agent of the domain package")
    return found
