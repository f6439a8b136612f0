"""Checkpoints become answers and scores."""
