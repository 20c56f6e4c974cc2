"""The engine on a CUDA device: layers over fused kernels, CUDA graphs, steps that overlap."""
