"""Built-in tools. None has side effects, so each may be run again."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from domain.agents.tools import Tool
from infrastructure.tools.arithmetic import calculate
from infrastructure.tools.clock import clock_tool
from infrastructure.tools.knowledge import knowledge_tool

__all__ = ["builtin_tools", "calculate", "clock_tool", "knowledge_tool"]


def builtin_tools(now: Callable[[], datetime], knowledge_dir: Path) -> tuple[Tool, ...]:
    """Return `current_time`, `calculate`, and `look_up` over a folder of Markdown files."""
    return clock_tool(now), calculate, knowledge_tool(knowledge_dir)
