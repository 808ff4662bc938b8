"""Notes on training pairs, from the reference alone: an offset to a pair's logit, and its weight."""
