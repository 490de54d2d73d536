"""How many examples property tests try.

A run of `make test` tries other examples than the one before, so a share of them is enough there. `make chaos` tries
all: `EXAMPLES_SHARE=1`.
"""

import os

SHARE = float(os.environ.get("EXAMPLES_SHARE", "0.25"))


def examples(number: int) -> int:
    """Return this run's share of so many examples, at least one."""
    return max(round(number * SHARE), 1)
