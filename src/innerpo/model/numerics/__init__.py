"""How products are computed and rounded: fused LoRA layers, half precision on CPUs, choices by hardware."""

# Part of every cache key. Raise it with a change that alters reference outputs by more than rounding.
VERSION = 1
