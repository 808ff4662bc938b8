"""Pairs, tokens and batches: everything up to the model's input."""
