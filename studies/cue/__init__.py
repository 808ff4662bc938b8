"""The cue bench: who learns the right feature where a cue agrees with it in most training pairs?

``python -m studies.cue.run`` trains and scores, ``python -m studies.cue.table`` writes docs/results.md's tables.
"""
