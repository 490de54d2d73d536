"""Streams: broadcasting what happens in a thread, following one thread, and the feed over all of them."""
