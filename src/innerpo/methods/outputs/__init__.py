"""Forms of the output term, one a file; ``innerpo.registry.OUTPUTS`` names them."""
