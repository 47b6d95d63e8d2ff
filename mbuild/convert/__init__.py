"""From a Hugging Face checkpoint to a GGUF model: safetensors, architectures, vocabularies."""
