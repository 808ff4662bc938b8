"""Training on transformers' Trainer, and what a run's folder holds."""
