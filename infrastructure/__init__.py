"""Adapters of the domain's ports: databases, models, tools, settings."""
