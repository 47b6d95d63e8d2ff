"""How many, how far ahead, and how to stop: the one place that knows the machine's cores."""
