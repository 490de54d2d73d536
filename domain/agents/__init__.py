"""Agents: graphs of nodes, tools, and the built-in assistant."""
