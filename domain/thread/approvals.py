"""What a person is asked to agree to, and its name: so that nobody grants something else than what was shown."""

from domain.json import JsonObject
from domain.thread.evolve import digest


def hash_of_call(tool: str, arguments: JsonObject) -> str:
    """Name a tool call as it is shown: 16 hexadecimal digits."""
    return digest({"tool": tool, "arguments": arguments})


def hash_of_node(turn_id: str, node: str, step: int) -> str:
    """Name a node in flight as it is shown: 16 hexadecimal digits."""
    return digest({"turn": turn_id, "node": node, "step": step})
