"""How blocks lie in bytes, once for each engine: numpy's whole arrays, compiled loops."""
