"""Scoring: one row of facts per response, scorers and statistics applied to them later, intervals over prompts."""
