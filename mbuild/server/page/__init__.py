"""The page that browsers get at ``/``, and what it asks: models, layers, builds, the disk."""
