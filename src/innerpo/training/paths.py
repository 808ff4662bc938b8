"""Names of the files in a run's folder, for those who read it without training (no torch here)."""

CONFIG, RECORD, METRICS, CHECKPOINTS = "config.yaml", "run.json", "metrics.jsonl", "checkpoints"

STATE = "state.json"
"""Exists while a process works on the run, and after it failed or was interrupted (training/state.py)."""
