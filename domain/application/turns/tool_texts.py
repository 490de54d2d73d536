"""What the model reads about calls that failed."""

from domain.agents.agent import Agent
from domain.agents.error_text import shortened
from domain.agents.tools import Tool

MAX_NAME_CHARS = 100
"""Characters that are shown of a tool name that a model made up."""

MAX_NAMES_CHARS = 5_000
"""Characters that are shown of the list of tools."""

EARLIER_ATTEMPT = "An earlier attempt of this call was interrupted. It may have had its effect."

OUTCOME_UNKNOWN = "It is not known whether this call had an effect. Check, or ask."

CUT_MARK = "\n[cut: the result was longer than can be kept]"


def unknown_tool(agent: Agent, name: str) -> str:
    """Return an error text for a tool that does not exist; "" for one that exists."""
    if name in agent.by_name:
        return ""
    known = ", ".join(agent.by_name) or "none"
    missing = f"There is no tool {shortened(name, MAX_NAME_CHARS)!r}." if name else "The call does not name a tool."
    return f"{missing} The tools are: {shortened(known, MAX_NAMES_CHARS)}."


def try_again(tool: Tool, why: str) -> str:
    """Return the text for a tool that asks the model to call it again."""
    return f"{why}\nCall {tool.name} again, with this corrected."


def for_good(tool: Tool, why: str) -> str:
    """Return the text for a tool that has asked for another call too often."""
    return f"{why}\n{tool.name} has failed for good in this turn. Do not call it again; go on without it."
