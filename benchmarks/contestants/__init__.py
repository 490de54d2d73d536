"""Who is compared: each a program that does the same work and prints its figures; see `side_by_side.figures`."""
