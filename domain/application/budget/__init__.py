"""Budgets while turns run: a turn's budget, reservations in the ledger, and the cache of tenants' limits."""
