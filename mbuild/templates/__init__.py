"""Go's text/template language with Ollama's functions: parsed, rendered, recognized."""
