"""Preference directions, one a file; ``innerpo.registry.DIRECTIONS`` names them."""
