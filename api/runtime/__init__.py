"""The composition root, and what processes need: subprocesses, the watchdog, health, metrics."""
