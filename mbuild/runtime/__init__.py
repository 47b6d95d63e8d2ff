"""Running models: an engine in a process of its own, what it is asked, what it answers."""
