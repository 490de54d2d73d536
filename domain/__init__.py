"""The domain: conversations on an event log. It does no input or output itself; see `domain.ports`."""
