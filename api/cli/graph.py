"""`threadfold graph`."""

import asyncio
from collections.abc import Sequence

import click

from api.cli.bootstrap import explained, log_to_stderr
from api.cli.output import as_json, counted, echo, show_fields, show_json, show_table
from api.runtime.composition import open_runtime
from api.runtime.stores import MEMORY
from api.schemas.graphs import GraphView, NodeView, graph_view, graph_views
from api.schemas.requests import DEFAULT_GRAPH
from api.services.threads import Service
from infrastructure.settings import Settings, load_settings


@click.command()
@click.argument("name", required=False)
@click.option("--mermaid", is_flag=True, help="Print the graph in Mermaid.  [default NAME: assistant]")
@as_json
def graph(*, name: str | None, mermaid: bool, as_json: bool) -> None:
    """List the agents' graphs, or show the graph NAME: its nodes, edges and tools."""
    if mermaid and as_json:
        raise click.UsageError("--mermaid and --json cannot be given together")
    chosen = name or (DEFAULT_GRAPH if mermaid else None)
    with explained():
        log_to_stderr("warning")
        views = asyncio.run(_views(load_settings(), chosen))
    if as_json:
        show_json(views[0] if chosen else views)
    elif mermaid:
        echo(views[0].mermaid, nl=False)
    elif chosen:
        _show(views[0])
    else:
        rows = [[one.name, one.start, str(len(one.nodes)), ", ".join(tool.name for tool in one.tools)] for one in views]
        show_table(["GRAPH", "START", "NODES", "TOOLS"], rows)


async def _views(settings: Settings, name: str | None) -> Sequence[GraphView]:
    without_database = settings.model_copy(update={"database_url": MEMORY})  # a graph is code: no database is needed
    async with open_runtime(without_database) as runtime:
        return graph_views(runtime.agents) if name is None else [graph_view(Service(runtime).agent(name))]


def _named(view: GraphView) -> str:
    """Return the agent's name, with its version, and whether that takes no new turns."""
    version = f" (version {view.version})" if view.version else ""
    return f"{view.name}{version}" if view.current else f"{view.name}{version}, for running turns"


def _show(view: GraphView) -> None:
    show_fields(
        ("Graph", view.name),
        ("Version", view.version or None),
        ("Fingerprint", view.fingerprint),
        ("Start", view.start),
        ("Step limit", counted(view.step_limit, "node")),
    )
    echo()
    show_table(["NODE", "TIMEOUT", "ATTEMPTS", "NEXT"], [_node(node) for node in view.nodes], wrap=True)
    if view.tools:
        echo()
        tools = [[tool.name, f"{tool.timeout:g} s", tool.description.strip().partition("\n")[0]] for tool in view.tools]
        show_table(["TOOL", "TIMEOUT", "DESCRIPTION"], tools, wrap=True)


def _node(node: NodeView) -> list[str]:
    following = node.next if isinstance(node.next, str) else ", ".join(f"{k} → {v}" for k, v in node.next.items())
    return [node.name, f"{node.timeout:g} s", str(node.attempts), following]
