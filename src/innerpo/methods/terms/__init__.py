"""Loss terms, one a file; ``innerpo.registry.TERMS`` names them."""
