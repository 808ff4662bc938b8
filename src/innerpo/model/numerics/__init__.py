"""Data types, kernels and memory: what the hardware suggests, fused LoRA, half-precision products on CPUs."""
