"""Who may do what: API keys, scopes, principals and tenants."""
