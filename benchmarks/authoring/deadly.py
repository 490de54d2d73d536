"""Shop that kills the process right after an effect, once: `KILL_AFTER=refund` or `mail`, and `KILLED` is a file.

Import it before a desk; `desk` is ours, for `AGENTS=benchmarks.authoring.deadly:desk`.
"""

import os
import signal
from pathlib import Path

from examples.returns.agent import desk
from examples.returns.shop import Effect, Shop

__all__ = ["desk"]

_do = Shop._do  # noqa: SLF001  (the journal is where every effect goes through)


def do(self: Shop, effect: Effect) -> None:
    """Carry out an effect, and die after the one that the environment names."""
    _do(self, effect)
    killed = Path(os.environ["KILLED"])
    if effect.kind == os.environ.get("KILL_AFTER") and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)


Shop._do = do  # type: ignore[method-assign]  # noqa: SLF001
