"""Checkpoint files read with limits: safetensors, element types, packed and quantized weights."""
