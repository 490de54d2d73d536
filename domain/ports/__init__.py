"""Ports: the interfaces that adapters implement. `tests/contracts/` has one suite for each, run on every adapter."""
