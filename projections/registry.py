"""The projections that there are."""

from projections import audit, budgets, messages, nodes, spells, threads, tools, turns, usage

PROJECTIONS = (
    threads.PROJECTION,
    messages.PROJECTION,
    budgets.PROJECTION,
    spells.PROJECTION,
    audit.PROJECTION,
    usage.PROJECTION,
    nodes.PROJECTION,
    tools.PROJECTION,
    turns.PROJECTION,
)
"""Those whose rows many threads share come last: their locks are held shortly, since rows are written in this order."""
