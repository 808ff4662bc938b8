"""Names of the files in a run's folder, for those who read it without training (no torch here)."""

CONFIG, RECORD, METRICS, CHECKPOINTS = "config.yaml", "run.json", "metrics.jsonl", "checkpoints"

STATE = "state.json"
"""Exists while a process works on the run, and after it failed or was interrupted (training/state.py)."""

SWEEP, SWEPT = ".sweep", "sweep.json"
"""In a folder of runs: what a sweep keeps of its work (leases, attempts, errors). In a run's folder: what it says of
the run (its row in tables, the time it took)."""

TRIALS = "trials"
"""Beneath SWEEP in the folder of a search: the attempts at its trials, a folder each, which go when the trial ends."""
