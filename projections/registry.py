"""All projections."""

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
"""Rows are written in this order. Projections whose rows many threads share come last: their locks are held shortly."""
