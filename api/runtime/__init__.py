"""Processes and the composition root: which adapters are used, subprocesses, the watchdog, health, metrics."""
