"""Hashes of what a person approves. A decision names the hash, so that it applies only to what the person saw."""

from domain.json import JsonObject
from domain.thread.evolve import digest


def hash_of_call(tool: str, arguments: JsonObject) -> str:
    """Return the hash of a tool call: 16 hexadecimal digits."""
    return digest({"tool": tool, "arguments": arguments})


def hash_of_node(turn_id: str, node: str, step: int) -> str:
    """Return the hash of a node in flight: 16 hexadecimal digits."""
    return digest({"turn": turn_id, "node": node, "step": step})
