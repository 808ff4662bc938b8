"""Preference optimisation on hidden states, and a measure of whether it generalises."""

__version__ = "0.1.0"
