"""What a run is, as typed frozen records; presets and files laid over them; which fields identify a run."""
