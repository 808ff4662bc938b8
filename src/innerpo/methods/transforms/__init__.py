"""Transforms of pooled states, one a file; ``innerpo.registry.TRANSFORMS`` names them."""
