"""What an edit will break: the formula against hooks by hand, the divergence against plain forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from editing import Edit, apply_edits, make_edit
from editing.forecast import Forecaster, bystanders, forecast
from editing.ops import WeightDelta
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from facts.probes import edit_request
from tests.tiny import tiny_model

PROMPTS = ("the Space Needle is in", "so Rome is the city of", "Oslo is a city", "the Eiffel Tower is in Paris")
REQUEST = EditRequest(Fact.from_prompt("the Space Needle is in", "Space Needle", "Seattle"), "Paris")


def made(family: str, layer: int = 1, scale: float = 0.1) -> tuple[Edit, WeightDelta]:
    """A random rank-one change of a tiny model's down-projection."""
    model, draw = tiny_model(family), torch.Generator().manual_seed(0)
    name = model.architecture.key_weight_name(layer)
    op = WeightDelta(
        name, scale * torch.randn(model.d_model, 1, generator=draw), torch.randn(1, model.d_mlp, generator=draw)
    )
    return Edit("r-rome", (REQUEST,), None, (op,), model.revision), op


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "olmo2", "granite"])
def test_the_forecast_is_the_change_of_the_write_beside_the_state(family: str) -> None:
    model, (edit, op) = tiny_model(family), made(family)
    architecture = model.architecture
    found = {row.prompt: row.foretold for row in forecast(model, edit, PROMPTS)}
    for prompt in PROMPTS:
        seen: dict[str, torch.Tensor] = {}
        behind = architecture.mlp_path(1) if architecture.post_norm else architecture.block(1)
        first = model.submodules[architecture.key_path(1)].register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update(key=args[0][0])
        )
        second = model.submodules[behind].register_forward_hook(
            lambda _, __, out, seen=seen: seen.update(
                state=(out[0] if isinstance(out, tuple) else out).reshape(-1, model.d_model)
            )
        )
        model.logits(torch.tensor([model.encode(prompt)]))
        first.remove()
        second.remove()
        moved = seen["key"].reshape(-1, model.d_mlp) @ op.matrix().T * (0.3 if family == "granite" else 1.0)
        assert found[prompt] == pytest.approx(float((moved.norm(dim=1) / seen["state"].norm(dim=1)).max()), rel=1e-4)


def test_the_damage_is_the_divergence_of_the_next_token() -> None:
    model, (edit, _) = tiny_model("gpt2"), made("gpt2", scale=1.0)
    forecaster = Forecaster(model, [*PROMPTS, PROMPTS[0], "", "too long " * 500])
    assert forecaster.prompts == PROMPTS
    edited = apply_edits(model, [edit])
    measured = forecaster.measure(edit)
    for prompt in PROMPTS:
        p, q = (
            each.logits(torch.tensor([model.encode(prompt)]))[0, -1].double().log_softmax(-1)
            for each in (model, edited)
        )
        assert measured[prompt] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-6)
    assert forecaster.measure(edit, PROMPTS[1:2]) == pytest.approx({PROMPTS[1]: measured[PROMPTS[1]]})
    with pytest.raises(ValueError, match="not among those of the forecast"):
        forecaster.measure(edit, ["Oslo"])


def test_rows_are_ranked_and_scale_with_the_change() -> None:
    model = tiny_model("llama")
    forecaster = Forecaster(model, PROMPTS)
    (edit, op) = made("llama")
    ranked = forecaster.foretell(edit)
    assert [row.foretold for row in ranked] == sorted((row.foretold for row in ranked), reverse=True)
    twice = replace(edit, ops=(replace(op, rows=2 * op.rows),))
    assert [row.foretold for row in forecaster.foretell(twice)] == pytest.approx([2 * row.foretold for row in ranked])


def test_two_layers_add_their_shares() -> None:
    model = tiny_model("gpt2")
    (one, _), (other, _) = made("gpt2", 0), made("gpt2", 2)
    prompt = PROMPTS[2]
    both = forecast(model, replace(one, ops=(*one.ops, *other.ops)), [prompt])[0].foretold
    each = [forecast(model, edit, [prompt])[0].foretold for edit in (one, other)]
    assert max(each) <= both <= sum(each) + 1e-6


def test_an_edit_of_another_kind_is_refused() -> None:
    model = tiny_model("gpt2")
    edit = make_edit(model, [REQUEST], "ft", {"layer": 1, "steps": 1})
    with pytest.raises(ValueError, match="ft changes more than down-projections"):
        forecast(model, edit, PROMPTS)


def test_bystanders_are_others_and_each_once() -> None:
    atlas = load_atlas()
    row = next(row for row in atlas.facts if row.subject == "Space Needle")
    request = edit_request(atlas, atlas.as_fact(row), "Paris")
    prompts = bystanders(request, 200)
    assert len(prompts) == len(set(prompts)) == 200
    assert request.fact.prompt not in prompts
    assert not {probe.prompt for probe in request.of_kind("paraphrase")} & set(prompts)
    assert {probe.prompt for probe in request.of_kind("neighborhood")} <= set(prompts)
    assert prompts == bystanders(request, 200)
    assert prompts != bystanders(request, 200, seed=1)
