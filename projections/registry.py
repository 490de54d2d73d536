"""The projections that there are."""

from projections import budgets, command_log, messages, nodes, status_periods, threads, tools, turns, usage

PROJECTIONS = (
    threads.PROJECTION,
    messages.PROJECTION,
    budgets.PROJECTION,
    status_periods.PROJECTION,
    command_log.PROJECTION,
    usage.PROJECTION,
    nodes.PROJECTION,
    tools.PROJECTION,
    turns.PROJECTION,
)
"""Those whose rows many threads share come last: their locks are held shortly, since rows are written in this order."""
