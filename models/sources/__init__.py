"""Where models come from: the package index, the hub, GGUF files; and where what was fetched or converted is kept."""
