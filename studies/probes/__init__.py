"""The probe table: what frozen directions read, in distribution and beyond, without training.

``python -m studies.probes.run`` measures, ``python -m studies.probes.table`` writes the table (docs/probes.md).
"""
