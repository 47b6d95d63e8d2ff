"""How a model is written down in a registry: one module for each form of manifest."""
