"""`innerpo doctor METHOD`: does each term of a loss teach, in the right direction, and see what it should see?

A few pairs, one batch, no training. The adapter is moved a small seeded step away from the reference first, because
several terms (drift, retain, coherence) are flat exactly there.
"""
