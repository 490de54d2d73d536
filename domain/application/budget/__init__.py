"""Budgets of running turns: a turn's budget, reservations in the ledger, and the cache of tenants' limits."""
