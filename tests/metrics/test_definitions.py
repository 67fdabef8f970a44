"""The table of metrics: what everything else takes from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metrics.definitions import METRICS
from metrics.types import Evidence, Metric

ROOT = Path(__file__).parents[2]


def test_the_table_is_read_without_torch() -> None:
    """The page shows it before torch is imported."""
    script = (
        "import metrics.definitions, sys; sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_measures_what_it_defines_and_the_docs_have_it(metric: Metric) -> None:
    scores = METRICS[metric.name].scores(Evidence((), 0))
    assert {score.name for score in scores} == {f"{metric.name}.{key}" for key in metric.definitions}
    assert scores[0].name == f"{metric.name}.{metric.headline}"
    assert all(not score.measured and score.reason for score in scores)
    row = f"| {metric.label} | {metric.question} | {metric.definitions[metric.headline].label} |"
    assert row in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
