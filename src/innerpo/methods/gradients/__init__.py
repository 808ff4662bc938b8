"""Gradient methods, one a file; ``innerpo.registry.GRADIENTS`` names them."""
