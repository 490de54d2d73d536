"""What is compared: each module has one `compare(bench)`; see `side_by_side.__main__`."""
