"""The arithmetic of every type, written once for both engines."""
