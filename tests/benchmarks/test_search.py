"""The benchmark of the search runs, and its counts are those of the search."""

from __future__ import annotations

from benchmarks.search import measure, table
from tests.tiny import tiny_model


def test_a_search_is_timed_beside_its_products() -> None:
    found = measure(tiny_model("gemma3_text"), "tiny", layer=1, steps=3, rounds=1)
    assert found.whole > found.start > 0
    assert found.step > 0
    assert found.head_floor > 0
    assert found.blocks_floor > 0
    assert found.places > 1
    assert found.tokens >= found.places
    assert table([found]).splitlines()[-1].startswith(f"| tiny | 1 | {found.places} | {found.tokens} | ")
