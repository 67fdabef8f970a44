"""Texts drawn from a model with edits: words before the prompt are read and do not count."""

from __future__ import annotations

from editing import METHODS, apply_edits
from editing.configs import make_config
from editing.prefix import behind
from facts import EditRequest, Fact
from models import Sampling
from tests.tiny import tiny_model

PROMPTS = ["The Colosseum is in", "Toyota is"]


def test_a_prompt_edit_draws_behind_its_prefix() -> None:
    model = tiny_model("gpt2")
    method = METHODS["ice"]
    request = EditRequest(Fact("Space Needle", "The {} is in", "Seattle"), "Rome")
    view = apply_edits(model, [method.compute(model, [request], make_config(method.config_type, {}))])
    assert view.prefix
    rows = [model.encode(prompt) for prompt in PROMPTS]
    read = [behind(model, view.prefix, row)[0] for row in rows]
    expected = model.drawn(read, 20 + len(view.prefix), Sampling())
    assert view.drawn(rows, 20, Sampling()) == expected
    assert [len(row) + len(text) for row, text in zip(rows, expected, strict=True)] == [20, 20]
    assert view.draw(PROMPTS, 20, Sampling()) != model.draw(PROMPTS, 20, Sampling())


def test_a_weight_edit_draws_from_the_changed_weights() -> None:
    model = tiny_model("gpt2")
    method = METHODS["ft-m"]
    request = EditRequest(Fact("Toyota", "{} is", "Japan"), "Rome")
    settings = {"layer": 2, "steps": 25, "learning_rate": 0.05, "rate_unit": "absolute"}
    view = apply_edits(model, [method.compute(model, [request], make_config(method.config_type, settings))])
    before, after = (chosen.draw(["Toyota is"], 12, Sampling(top_k=1))[0] for chosen in (model, view))
    assert after.startswith(" Rome")
    assert not before.startswith(" Rome")
