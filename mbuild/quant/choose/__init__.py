"""What a file type makes of a model: which tensor gets which type."""
