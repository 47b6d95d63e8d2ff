"""What a text does in a model: importance matrices, perplexity, divergence; in a child process."""
