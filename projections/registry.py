"""All projections."""

from projections import budgets, command_log, messages, nodes, status_periods, threads, tools, turn_list, turns, usage

PROJECTIONS = tuple(
    of.PROJECTION
    for of in (threads, messages, budgets, status_periods, turn_list, command_log, usage, nodes, tools, turns)
)
"""Rows are written in this order. Projections whose rows many threads share come last: their locks are held shortly."""
