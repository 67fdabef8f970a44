"""The tables of docs/real-models.md, on an average worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import average_tables
from tracing.average import AverageEffects
from tracing.config import TraceConfig
from tracing.types import CATEGORIES


def average() -> AverageEffects:
    """Four facts and two layers; the last fact's subject is one token."""
    effects = np.full((4, len(CATEGORIES), 2), np.nan, dtype=np.float32)
    effects[:, 0] = [[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [0.9, 0.1]]
    effects[:2, 1] = [[0.0, 0.1], [0.0, 0.3]]
    effects[:, 2] = [[0.2, 0.4], [0.1, 0.2], [0.0, 0.3], [0.9, 0.1]]
    effects[:, 5] = [[0.0, 0.5]] * 4
    return AverageEffects(
        configs=(TraceConfig(samples=3),),
        model_name="by hand",
        revision="0",
        noise_std=0.1,
        noise_source="Gaussian noise",
        prompts=("a", "b", "c", "d"),
        unknown=("e",),
        unaligned=(),
        clean=np.full(4, 0.6, dtype=np.float32),
        corrupted=np.full(4, 0.1, dtype=np.float32),
        effects={"resid_post": effects},
    )


def test_the_largest_effect_of_each_token_with_its_layer() -> None:
    head, _, _, _, first, middle, last, following, further, final, *_ = average_tables.tables(average()).splitlines()
    assert head.startswith("**by hand**: 4 of 5 facts known, average P(answer) 0.600, total effect 0.500")
    assert first.startswith("| First subject token | 4 | 0: 0.250 (")
    assert middle == "| Middle subject tokens | 2 | – |"  # two facts have no interval worth the name
    assert last.startswith("| Last subject token | 4 | 0: 0.300 (")
    assert (following, further) == ("| First subsequent token | 0 | – |", "| Further tokens | 0 | – |")
    assert final == "| Last token | 4 | half of the total from 1: 0.500 (0.500 to 0.500) |"


def test_the_spread_over_facts_counts_each_once() -> None:
    """A subject of one token counts as the last token, and not where such subjects are left out."""
    text = average_tables.tables(average()).splitlines()[-1]
    assert "quartiles 1, 1, 1" in text
    assert "first subject token 0, middle subject tokens 1, last subject token 3, first subsequent token 0" in text
    assert "(n = 3) the last subject token has 0.300 (-0.058 to 0.658) at layer 1." in text


def test_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    average().save(tmp_path / "average.npz")
    monkeypatch.setattr("sys.argv", ["average_tables", str(tmp_path / "average.npz")])
    assert average_tables.main() == 0
    assert capsys.readouterr().out.startswith("**by hand**")
