"""Preference directions, one a file."""
