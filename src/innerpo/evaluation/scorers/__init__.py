"""Scorers: pure functions from the facts of responses (facts.RESPONSES) to one number per response, higher is better.

``registry.SCORERS`` lists them by name. A scorer sees the rows of all models and sets, so that it may relate a model's
rows to another's; it needs no new pass over a model.
"""
