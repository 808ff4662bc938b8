"""`innerpo inspect RUN`: what an adapter changed in each block, on held-out pairs of its own data set."""
