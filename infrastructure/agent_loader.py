"""Loading the user's own agents: `AGENTS` names each by its module or its file."""

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from infrastructure.settings import CHECKOUT, BadSetting, is_agent_file, split_agent_name

MAX_ERROR_CHARACTERS = 500
"""Characters of an error that are shown."""


class _NoAgentError(Exception):
    """A file has no agent to take, for the reason in the message."""


def load_agents(names: Iterable[str], setting: str = "AGENTS") -> Sequence[Agent]:
    """Load each agent that is named as `module:attribute`, `path/to/file.py:attribute` or `path/to/file.py`.

    Modules are also searched for in the working directory, after all other places. Relative paths start there, too.
    A file may import modules of its own directory. Without an attribute, it must have exactly one agent. `setting` is
    the setting or option that has the names, for errors.

    Raises:
        BadSetting: a name leads to no `Agent`. The message is one line, with the place of the error in the user's file.
    """
    _make_importable(Path.cwd())
    return [_load(name, setting) for name in names]


def _load(name: str, setting: str) -> Agent:
    place, attribute = split_agent_name(name)
    stderr = _HeldStderr(sys.stderr)
    try:
        with redirect_stderr(stderr):
            module = _module_of(Path(place)) if is_agent_file(place) else importlib.import_module(place)
            if attribute:
                _check_not_taken(place, module, attribute)
            found = getattr(module, attribute) if attribute else _only_agent(module)
    except BaseException as error:
        why = str(error) if isinstance(error, _NoAgentError) else _explained(error, stderr.text)
        raise BadSetting(f"{setting}={name}: {why}") from error
    stderr.release()
    if not isinstance(found, Agent):
        raise BadSetting(f"{setting}={name}: this is {type(found).__name__}; expected an Agent")
    return found


def _check_not_taken(place: str, module: ModuleType, attribute: str) -> None:
    """Refuse the name of a file in the working directory that another module has, such as `api.py` or `calendar.py`."""
    own = Path.cwd() / f"{place.replace('.', '/')}.py"
    if is_agent_file(place) or hasattr(module, attribute) or not own.is_file() or module.__file__ == str(own):
        return
    raise _NoAgentError(
        f"the name {place} belongs to {module.__file__ or 'a built-in module'}; name the file instead, as in "
        f"{own.name}:{attribute}, or rename it"
    )


def _make_importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _module_of(path: Path) -> ModuleType:
    """Load a file, once in a process.

    The module is named after the file, so that other files can import it, unless another module has that name: a file
    `calendar.py` must not replace Python's.
    """
    file = path.expanduser().resolve()
    if not file.is_file():
        raise _NoAgentError(f"there is no file {file}")
    _make_importable(file.parent)
    if _file_of_module(file.stem) == file:
        return importlib.import_module(file.stem)
    name = f"agents_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise _NoAgentError(f"{file} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_of_module(name: str) -> Path | None:
    """Return the file that an import of a name would load; None if it would load none."""
    try:
        spec = importlib.util.find_spec(name) if "." not in name else None
    except ValueError:  # a module without a spec, such as `__main__`
        return None
    return Path(spec.origin).resolve() if spec and spec.origin and spec.has_location else None


def _only_agent(module: ModuleType) -> Agent:
    named = {name: value for name, value in vars(module).items() if isinstance(value, Agent)}
    if not named:
        raise _NoAgentError(f"{module.__file__} has no agent")
    first, *others = named.values()
    if any(other is not first for other in others):
        raise _NoAgentError(f"{module.__file__} has several agents; add one of :{', :'.join(named)}")
    return first


class _HeldStderr:
    """Holds back what a module writes to stderr during its import, and passes on what it writes later.

    A module may keep this object as its stderr for good, such as in a handler of its log.
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

    def release(self) -> None:
        """Write what was held back: the import succeeded."""
        self._importing = False
        self._stderr.write(self.text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stderr, name)


def _explained(error: BaseException, written: str) -> str:
    """Return the error's kind and message on one line, with the innermost place in the user's own files.

    A program that ends itself, as argparse does, writes the reason before: the last line of that is added.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users_own(frame.filename)]
    where = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    text = " ".join(error_text(error, MAX_ERROR_CHARACTERS).split()).removesuffix(":")
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        return f"{text}{where}"
    reason = written.strip().rpartition("\n")[2][:MAX_ERROR_CHARACTERS]
    return f"{text}{where}: the module tried to end the process when it was imported{f': {reason}' if reason else ''}"


def _is_users_own(filename: str) -> bool:
    """Return whether a file belongs neither to Threadfold, nor to an installed package, nor to Python."""
    if filename.startswith("<"):
        return False
    places = [str(CHECKOUT / name) for name in ("domain", "infrastructure", "api", "threadfold")]
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return not any(Path(filename).is_relative_to(place) for place in (*places, *installed))
