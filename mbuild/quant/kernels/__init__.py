"""What is compiled: the loop over tiles, layouts, and numba's meaning of the operations."""
