"""Inspection of a run: what an adapter changed in each block, on held-out pairs of its own data set."""
