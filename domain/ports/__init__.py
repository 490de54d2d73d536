"""What the application needs of the world. Each port has one contract suite in `tests/contracts/`."""
