"""Scores: rows kept, aggregated late, with intervals clustered by prompt."""
