"""Attention that keeps the samples of a row apart, and lets some of them share a prefix."""
