"""Cues: few directions of the residual stream that must not be learned, and their controls."""
