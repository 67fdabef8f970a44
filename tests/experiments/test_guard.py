"""When an edit is called broken, by hand."""

import pytest

from editing import Diagnostic, get_method
from experiments.guard import UNLIKELY, guarded, why_broken
from models import LanguageModel
from tests.editing.quick import NEEDLE, QUICK, quick
from tests.tiny import build_tiny


@pytest.mark.parametrize(
    ("before", "after", "answer", "broken"),
    [(30.0, 60.0, 0.5, 0), (30.0, 60.1, 0.5, 1), (30.0, float("inf"), 0.009, 2), (30.0, 31.0, 0.01, 0)],
)
def test_bounds(before: float, after: float, answer: float, broken: int) -> None:
    numbers = {"perplexity before": before, "perplexity after": after, "p(new) after": answer}
    assert len(why_broken([Diagnostic(name, value, "", "") for name, value in numbers.items()])) == broken


def test_what_was_not_measured_is_not_held_against_an_edit() -> None:
    assert why_broken([]) == ()


ROOMY = LanguageModel("roomy", "0" * 64, *build_tiny("gpt2", max_position_embeddings=512))
UNTRAINED = (*QUICK, "ice", "ike", "grace", "wise")
"""Methods that need no trained editor."""


@pytest.mark.parametrize("method", UNTRAINED)
def test_every_method_tells_what_says_whether_its_edit_is_broken_and_advises_another(method: str) -> None:
    small = {"grace": {"layer": 1, "steps": 2}, "wise": {"layer": 1, "steps": 2, "prefixes": 0, "irrelevant": 1}}
    config = quick(method, "") if method in QUICK else small.get(method, {})
    made = guarded(ROOMY, [NEEDLE], method, config, guard_texts=["Rome is the capital of Italy."])
    diagnostics = (*made.edit.diagnostics, *made.checks)
    assert {"p(new) after", "perplexity before", "perplexity after"} <= {each.name for each in diagnostics}
    answer = made.edit.diagnostic("p(new) after").value
    assert bool(why_broken(made.edit.diagnostics)) == (answer < UNLIKELY)
    own, config_type = get_method(method).title, get_method(method).config_type.__dataclass_fields__
    for warning in (*made.edit.warnings, *made.warnings):
        assert own not in warning.replace("R-ROME", "" if own == "ROME" else "R-ROME").split("try")[-1]
        assert "another layer" not in warning or "layer" in config_type
        assert "more steps" not in warning or "steps" in config_type
