"""Measurements that take minutes to hours: `python -m benchmarks.NAME`.  Their figures are in docs/."""
