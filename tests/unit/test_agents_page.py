"""The examples of docs/agents.md run, and those that are tests pass."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text("utf-8")

EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example {number}" for number in range(1, len(EXAMPLES) + 1)])
async def test_examples_run(example: str) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "docs/agents.md", "exec"), names)
    for name, function in list(names.items()):
        if name.startswith("test_") and inspect.iscoroutinefunction(function):
            await function()


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 7
    assert any("def test_" in example for example in EXAMPLES)
