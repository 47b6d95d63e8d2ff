"""The HTTP server: Ollama's model-management API over the engine and the store."""
