"""PEFT LoRA adapters as GGUF adapters."""
