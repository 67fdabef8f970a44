"""Kill processes, fill disks and damage ledgers during runs: `python -m benchmarks.kills`."""
