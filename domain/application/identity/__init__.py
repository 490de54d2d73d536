"""Identity: authenticating callers, and managing keys and tenants."""
