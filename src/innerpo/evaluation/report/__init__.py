"""The report: one HTML page about many runs, which opens from disk without a network."""
