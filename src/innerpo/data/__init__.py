"""Preference pairs, token ids and batches: everything up to the model's input."""
