"""Files written before the package had its present folders still open, with the numbers that stand beside them.

`data/` holds what `save` and `to_json` wrote for tiny models, and a journal of `average_effects`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facts import Fact
from tests.tiny import tiny_model
from tracing import (
    AttributionResult,
    AverageEffects,
    KnockoutResult,
    LensResult,
    NeuronAttribution,
    PathResult,
    TraceConfig,
    TraceResult,
    TunedLens,
    average_effects,
)
from tracing.engine import averaging

DATA = Path(__file__).parent / "data"
KINDS: dict[str, Any] = {
    "trace": TraceResult,
    "trace_heads": TraceResult,
    "lens": LensResult,
    "tuned_reading": LensResult,
    "knockout": KnockoutResult,
    "attribution": AttributionResult,
    "neurons": NeuronAttribution,
    "paths": PathResult,
    "average": AverageEffects,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_result_opens_with_its_numbers(name: str) -> None:
    written = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    opened = json.loads(KINDS[name].load(DATA / f"{name}.npz").to_json())
    without = {"suggested_reason"}  # a sentence, which may be reworded
    assert written.keys() == opened.keys()
    for key in written.keys() - without:
        same(opened[key], written[key], key)


def same(opened: Any, written: Any, where: str) -> None:
    """Equal in everything, numbers to a relative and absolute 1e-6.

    The files are of two samples, which had intervals of 12.7 standard errors to each side when they were written.
    """
    if opened is None and re.sub(r"\[\d+\]", "", where).endswith(("low", "high", "ci")):
        return
    if isinstance(written, dict):
        assert opened.keys() == written.keys(), where
        for key in written:
            same(opened[key], written[key], f"{where}.{key}")
    elif isinstance(written, list):
        assert len(opened) == len(written), where
        for index, (mine, theirs) in enumerate(zip(opened, written, strict=True)):
            same(mine, theirs, f"{where}[{index}]")
    elif isinstance(written, float) and isinstance(opened, float):
        assert math.isclose(opened, written, rel_tol=1e-6, abs_tol=1e-6), where
    else:
        assert opened == written, where


def test_a_tuned_lens_opens() -> None:
    lens = TunedLens.load(DATA / "tuned_lens.npz")
    assert (lens.model_name, lens.n_tokens, lens.weight.shape) == ("tiny gpt2", 292, (3, 32, 32))
    np.testing.assert_allclose([lens.weight.sum(), lens.bias.sum()], [17.816597, 3.979309], atol=1e-4)


def test_an_average_goes_on_from_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    settings, *lines = (DATA / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    journal = tmp_path / "journal.jsonl"
    renewed = json.loads(settings) | {"revision": model.revision}  # random weights may differ with the torch release
    journal.write_text("\n".join([json.dumps(renewed), *lines]) + "\n", encoding="utf-8")
    facts = [Fact.from_prompt(f"the Space Needle is in{more}", "Space Needle", "Space") for more in ("", " 7")]
    facts.append(Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen"))
    monkeypatch.setattr(averaging, "knows", None)  # every fact is in the journal, so the model is not asked
    configs = [TraceConfig(site="mlp_out", samples=2), TraceConfig(severed="mlp_out", samples=2)]
    average = average_effects(model, facts, configs, journal=journal)
    for name, effects in AverageEffects.load(DATA / "average.npz").effects.items():
        np.testing.assert_allclose(average.effects[name], effects, atol=1e-6)
