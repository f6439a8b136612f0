"""Continuous batching: requests join and leave between decoding steps, over slots of a cache."""
