"""Executors: this process, several processes, or a Ray cluster."""
