"""Killing, filling and damaging what computes and keeps results: `python -m benchmarks.kills`."""
