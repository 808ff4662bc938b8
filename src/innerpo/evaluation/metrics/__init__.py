"""Metrics: what is said of a model on a set, as values of its pairs or responses, so that intervals can be made.

``registry.METRICS`` lists them by name; ``metric.py`` holds the record and the helpers to make one.
"""
