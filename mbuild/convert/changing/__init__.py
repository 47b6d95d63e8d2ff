"""Models changed on their way: metadata, layers, tensors of another model."""
