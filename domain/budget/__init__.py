"""Budgets: limits and how spending is checked against them, and the price list."""
