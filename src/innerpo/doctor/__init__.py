"""Sanity checks of a loss before training: does each term send gradient, with the right sign, and see the labels?

They use a few pairs in one batch and train nothing. The adapter is first moved a small seeded step away from the
reference, because several terms (drift, retain, coherence) have no gradient exactly there.
"""
