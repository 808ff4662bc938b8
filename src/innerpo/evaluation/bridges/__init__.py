"""Data sets and results in the forms of other programs: lm-evaluation-harness, TRL, the Hugging Face Hub, vLLM."""
