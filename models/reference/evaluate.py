"""Measure the bundled model: an older name of `python -m benchmarks.reference`, kept because it was documented."""

import runpy

if __name__ == "__main__":
    runpy.run_module("benchmarks.reference", run_name="__main__")
