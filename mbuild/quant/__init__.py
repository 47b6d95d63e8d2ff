"""Quantization: kernels with llama.cpp's bytes, and recipes for which tensor gets which type."""
