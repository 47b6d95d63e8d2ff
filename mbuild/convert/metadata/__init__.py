"""The general.* entries: names, sizes and the model card."""
