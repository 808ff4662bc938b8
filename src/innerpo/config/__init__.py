"""The configuration of a run as typed frozen records; presets and files that change it; which fields identify it."""
