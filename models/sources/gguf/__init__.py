"""GGUF files: read, checked, converted; adapters written."""
