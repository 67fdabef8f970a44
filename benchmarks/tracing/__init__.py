"""Tracing speed, side by side with a plain loop: `python -m benchmarks.tracing`."""
