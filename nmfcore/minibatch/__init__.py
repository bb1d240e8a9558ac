"""Fits that learn from a batch of rows at a time."""
