"""The returns desk of `examples/returns` in three frameworks: lines, and what a `kill -9` does to each."""
