"""Agents as you would write your own."""
