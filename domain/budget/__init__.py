"""Budgets: the rules of limits, and the price list."""
