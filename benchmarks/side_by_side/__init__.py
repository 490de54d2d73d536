"""Rivals side by side: one after the other and around again, on the same PostgreSQL; see docs/benchmarks.md."""
