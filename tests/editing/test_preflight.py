"""Signs of collapse: subjects of one token, changes as large as the weight, denominators of almost nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editing import METHODS, Diagnostic
from editing.ops import WeightDelta
from editing.parts.diagnosis import remedy_for
from editing.preflight import after_computing, before_computing, safer_than
from facts import EditRequest, Fact
from tests.editing import made as by_hand
from tests.editing.made import made
from tests.editing.quick import NEEDLE
from tests.tiny import tiny_model


def test_a_subject_of_one_token_at_the_beginning_is_told() -> None:
    model = tiny_model("gpt2")
    word = next(text for text in ("Paris", "Rome", "a", "The", "in") if len(model.encode(text)) == 1)
    first = EditRequest(Fact(word, "{} is the capital of", "x"), "y")
    inside = EditRequest(Fact(word, "The city of {} is in", "x"), "y")
    (check,) = before_computing(model, [NEEDLE, first], "r-rome")
    assert check.value == 1
    assert repr(word) in check.warning
    assert "AlphaEdit" in check.warning
    assert not before_computing(model, [NEEDLE, inside], "rome")[0].warning


def test_the_size_of_a_change_is_relative_to_its_weight() -> None:
    model = tiny_model("gpt2")
    small = by_hand.low_rank(model, 1, 0)
    norm = float(model.weight(small.name).norm())
    scale = 0.5 * norm / small.norm
    half = WeightDelta(small.name, small.rows * scale, small.cols)
    (check,) = after_computing(model, made(model, half))
    assert check.value == pytest.approx(0.5, rel=1e-4)
    assert not check.warning
    (large,) = after_computing(model, made(model, WeightDelta(half.name, half.rows * 4, half.cols)))
    assert large.value == pytest.approx(2.0, rel=1e-4)
    assert "undo it" in large.warning
    assert after_computing(model, made(model, by_hand.entry(model, 1))) == ()


@pytest.mark.parametrize(("denominator", "told"), [(0.5, False), (0.001, True), (-0.001, True)])
def test_a_tiny_denominator_is_told(denominator: float, told: bool) -> None:
    model = tiny_model("gpt2")
    edit = made(model, WeightDelta(model.architecture.key_weight_name(0), torch.ones(32, 1) * 1e-3, torch.ones(1, 64)))
    known = (Diagnostic("denominator", denominator), Diagnostic("key norm", 1.0))
    checks = after_computing(model, dataclasses.replace(edit, diagnostics=known))
    assert bool(checks[1].warning) == told


@pytest.mark.parametrize(
    ("method", "advised"), [("rome", "R-ROME or AlphaEdit"), ("r-rome", "AlphaEdit"), ("alphaedit", "R-ROME")]
)
def test_the_method_just_used_is_never_advised(method: str, advised: str) -> None:
    assert safer_than(method) == advised


def test_what_to_try_follows_from_the_settings() -> None:
    rome, ice = METHODS["r-rome"].config_type, METHODS["ice"].config_type
    assert remedy_for(rome(layer=2), 4) == "try another layer or more steps"
    assert remedy_for(rome(layer=3), 4).startswith(
        "try an earlier layer, since nothing carries what the last one writes"
    )
    assert remedy_for(rome(layer=3, fact_token="last"), 4) == "try another layer or more steps"
    assert remedy_for(ice(), 4) == "try another method"
