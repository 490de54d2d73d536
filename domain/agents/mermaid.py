"""A graph as a Mermaid flowchart."""

from domain.agents.graph import Graph
from domain.thread.events import END


def mermaid(graph: Graph) -> str:
    """Draw `graph`: a box for each node, an arrow for each edge, dotted if the edge depends on the state."""
    ids = {name: f"n{number}" for number, name in enumerate(graph.by_name)} | {END: "finish"}
    lines = ["flowchart TD", f"    start(( )) --> {ids[graph.first]}"]
    lines += [f'    {ids[name]}["{_quoted(name)}"]' for name in graph.by_name]
    lines.append(f"    finish([{END}])")
    for source, label, target in graph.arrows():
        arrow = f'-. "{_quoted(label)}" .->' if label else "-->"
        lines.append(f"    {ids[source]} {arrow} {ids[target]}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
