"""Running turns: the worker, one turn's run, its nodes, tool calls and model calls, and how clients wait."""
