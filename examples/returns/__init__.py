"""The returns desk of a shop, with all that an agent needs in its life."""
