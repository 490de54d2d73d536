"""Agents of the user's own, named in `AGENTS` as `module:attribute`."""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from infrastructure.settings import CHECKOUT, BadSetting

LONGEST = 500
"""Characters of an error that are told."""


def load_agents(names: Iterable[str]) -> Sequence[Agent]:
    """Import each named agent. Modules are looked for in the working directory, too, after all other places.

    Raises:
        BadSetting: a name does not lead to an `Agent`.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return [_load(name) for name in names]


def _load(name: str) -> Agent:
    module_name, _, attribute = name.partition(":")
    complaints = _Complaints(sys.stderr)
    try:
        with redirect_stderr(complaints):
            found = getattr(importlib.import_module(module_name), attribute)
    except BaseException as error:
        raise BadSetting(f"AGENTS={name}: {_explained(error, complaints.text)}") from error
    complaints.pass_on()
    if not isinstance(found, Agent):
        raise BadSetting(f"AGENTS={name}: this is {type(found).__name__}; expected an Agent of the domain package")
    return found


class _Complaints:
    """Holds back what a module writes to stderr while it is imported, and passes on what it writes later.

    A module may keep this as its stderr for good, such as in a handler of its log.
    """

    def __init__(self, stderr: TextIO) -> None:
        self.text = ""
        self._stderr = stderr
        self._importing = True

    def write(self, text: str) -> int:
        if not self._importing:
            return self._stderr.write(text)
        self.text += text
        return len(text)

    def pass_on(self) -> None:
        """Write what was held back: the module is fine."""
        self._importing = False
        self._stderr.write(self.text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stderr, name)


def _explained(error: BaseException, complaints: str) -> str:
    """Return the error's kind and words on one line, and where in the user's own files it came up.

    A program that ends itself, as argparse does, has said why before: the last line of that is told as well.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users_own(frame.filename)]
    where = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    text = " ".join(error_text(error, LONGEST).split()).removesuffix(":")
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        return f"{text}{where}"
    said = complaints.strip().rpartition("\n")[2][:LONGEST]
    return f"{text}{where}: the module tried to end the process when it was imported{f': {said}' if said else ''}"


def _is_users_own(filename: str) -> bool:
    """Say whether a file is neither ours nor of an installed package nor of Python itself."""
    if filename.startswith("<"):
        return False
    places = [str(CHECKOUT / name) for name in ("domain", "infrastructure")]
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return not any(Path(filename).is_relative_to(place) for place in (*places, *installed))
