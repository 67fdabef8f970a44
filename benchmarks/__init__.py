"""Measurements that take minutes to hours: `python -m benchmarks.NAME`.  Their figures stand in docs/."""
