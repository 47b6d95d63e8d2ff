"""Values that everything else is made of; nothing here knows models."""
