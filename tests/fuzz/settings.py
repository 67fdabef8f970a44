"""How many cases the fuzzers try: few and always the same in the suite, many and new ones for `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("ENGRAM_FUZZ_CASES", "0"))
"""Of all fuzzers together; 0 in the suite, where there are about 2,000."""
SLOWEST_MS = 1000
"""A case that takes longer fails under `make fuzz`; the suite measures no time."""


def cases(usual: int) -> settings:
    """Settings of a fuzzer that tries so many of the suite's 2,000 cases."""
    return settings(
        max_examples=max(1, usual * CASES // 2000) if CASES else usual,
        deadline=SLOWEST_MS if CASES else None,
        derandomize=not CASES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
