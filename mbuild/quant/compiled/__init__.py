"""The compiled engine: kernels compiled, kept, loaded and called."""
