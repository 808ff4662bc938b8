"""The model: loading it, reading its log-probabilities and hidden states, and the cached reference."""
