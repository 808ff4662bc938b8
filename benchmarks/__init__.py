"""Cost measured side by side: this project beside TRL (training) and lm-evaluation-harness (scoring).

``python -m benchmarks.train`` and ``python -m benchmarks.score`` (docs/performance.md). Not part of the wheel.
"""
