"""The notebooks of the docs run as they stand, on the bundled model."""

import json

import pytest

from benchmarks.notebooks import executed, names

SAYS = {
    "average-effects": ["average total effect", "mlp_out ["],
    "comparing-methods": ["r-rome", "Reliability"],
    "first-trace": ["it knows the fact: True", "the effect is largest at layer 1"],
    "layer-card": ["was measured on 6 facts"],
    "rank-one-edit": ["Edit by r-rome", "Reliability", "-> Rome."],
}
"""Words of each notebook's outputs."""


def test_every_notebook_is_named_here() -> None:
    assert names() == sorted(SAYS)


@pytest.mark.reference
@pytest.mark.parametrize("name", sorted(SAYS))
def test_a_notebook_runs(name: str) -> None:
    outputs = [cell.outputs for cell in executed(name).cells if cell.cell_type == "code"]
    shown = json.dumps(outputs, ensure_ascii=False)
    for words in SAYS[name]:
        assert words in shown
    assert "/tmp/" not in shown, "a path of this machine would stand in the docs"
    assert any("image/png" in json.dumps(cell) or "text/html" in json.dumps(cell) for cell in outputs)
