"""Experiments on assistants, one file each."""
