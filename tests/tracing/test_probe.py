"""Which way a model is traced is measured; each trap of an architecture has its test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facts import Fact
from models import LanguageModel, run
from models.architectures import architecture_named
from models.calls import current_call
from models.forwards.hooks import run_hooked
from models.views import plain
from tests.tiny import build_tiny, tiny_model
from tests.tracing.agreement import LEVEL, assert_agrees, cells_of
from tracing import TraceConfig, causal_trace
from tracing.engine.probe import engine_for, packs_exactly
from tracing.engine.runs import capture
from tracing.engine.tracer import ask, trace_all

FACT = Fact.from_prompt("the Space Needle is in", "Space Needle")
CONFIGS = [TraceConfig(site="mlp_out", window=2, samples=2), TraceConfig(samples=2, severed="mlp_out")]


def own(family: str, **changes: Any) -> LanguageModel:
    """A model nobody shares, so that its parts may be replaced."""
    return LanguageModel(f"own {family}", "0", *build_tiny(family, **changes))


@pytest.mark.parametrize("fault", ["raises", "wrong numbers"])
def test_a_model_whose_batch_cannot_grow_is_found_out(fault: str) -> None:
    model, honest = own("llama"), tiny_model("llama")
    attention = model.module.get_submodule("model.layers.2.self_attn")
    forward = attention.forward

    def tied_to_its_batch(hidden_states: Tensor, **inputs: Any) -> Any:
        if hidden_states.shape[0] > 1 and inputs["past_key_values"] is not None:
            if fault == "raises":
                raise RuntimeError("the size of tensor a must match the size of tensor b")
            hidden_states = hidden_states * 1.01
        return forward(hidden_states, **inputs)

    attention.forward = tied_to_its_batch  # type: ignore[method-assign]
    for config in CONFIGS:
        result = causal_trace(model, FACT, config, level=LEVEL)
        assert result.engine == "replay"
        expected = causal_trace(honest, FACT, config, level=LEVEL)
        assert expected.engine == "packed"
        np.testing.assert_allclose(result.restored, expected.restored, atol=1e-5)


def test_the_probe_runs_once_for_a_model_and_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    model, probes = own("gpt2"), []
    monkeypatch.setattr("tracing.engine.probe.packs_exactly", lambda *args: probes.append(args) or True)
    name = model.architecture.key_weight_name(1)
    for view in (model, model, model.view({name: model.weight(name) * 2})):
        assert engine_for(view, run_hooked) == "packed"
    assert len(probes) == 1
    assert engine_for(own("gpt2"), run_hooked) == "packed"
    assert len(probes) == 2


def test_a_layer_that_looks_at_the_prompt_is_replayed_with_the_prompt() -> None:
    """An edit that acts by where the prompt ends would be fooled by a packed sequence."""
    model = tiny_model("gpt2")
    path = model.architecture.key_path(1)

    def at_the_end(_: Tensor, output: Tensor) -> Tensor:
        call = current_call()
        assert call is not None
        changed = output.clone()
        ends = call.prompt_lengths - 1
        changed[torch.arange(len(output)), ends, :5] += 1.0  # of all 32, since a norm takes the mean away
        return changed

    view = model.view(rewrites={path: at_the_end}, revision="edited")
    assert plain(model.module)
    assert not plain(view.module)
    config = TraceConfig(samples=2)
    result = causal_trace(view, FACT, config, level=LEVEL)
    assert result.engine == "replay"
    ids = torch.tensor([view.encode(FACT.prompt)])
    expected = torch.softmax(view.logits(ids)[0, -1], -1)[result.answer_ids[0]]
    assert result.clean == pytest.approx(float(expected), abs=1e-6)
    assert result.clean != pytest.approx(causal_trace(model, FACT, config, level=LEVEL).clean, abs=1e-6)


def test_falcon_adds_to_the_mlp_output_in_place() -> None:
    """What is kept of a module is what it returned, not what was made of it afterwards."""
    model = tiny_model("falcon")
    question = ask(model, FACT)
    embeddings = model.embedding(question.ids[question.subject.start : question.subject.stop])[None]
    runs = capture(model, [question], [embeddings], ["mlp_out"], clean=False, keys_values=True, driver=run_hooked)
    key = run(model, torch.tensor([question.ids]), captures=[("mlp_key", 1)]).captured["mlp_key", 1]
    torch.testing.assert_close(runs.states["mlp_out", 1], model.key_module(1)(key))


def test_falcon_with_alibi_is_replayed() -> None:
    model = own("falcon", alibi=True, new_decoder_architecture=False, multi_query=True, num_kv_heads=None)
    for config in CONFIGS:
        result = causal_trace(model, FACT, config, level=LEVEL)
        assert result.engine == "replay"
        assert_agrees(model, FACT, result, cells_of(result, 2, seed=0))


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_where_the_mlp_module_returns_the_residual_too_its_write_is_restored(family: str) -> None:
    """Otherwise "mlp_out" would be the block output under another name."""
    model = tiny_model(family)
    assert architecture_named(family).mlp is None
    states, mlp = trace_all(model, FACT, [TraceConfig(samples=2), TraceConfig(site="mlp_out", samples=2)], level=LEVEL)
    assert states.engine == mlp.engine == "replay"
    subject = range(*states.subject_span)
    assert np.abs(states.restored[:, subject] - mlp.restored[:, subject]).max() > 1e-4


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo2"])
def test_restoring_before_a_post_norm_is_restoring_behind_it(family: str) -> None:
    model = tiny_model(family)
    assert model.architecture.post_norm
    block = model.module.get_submodule(model.architecture.block(2))
    question = ask(model, FACT)
    config = TraceConfig(site="mlp_out", samples=1, corruption="zero")
    result = causal_trace(model, FACT, config, level=LEVEL)
    kept: list[Tensor] = []
    pos, start = question.subject.stop - 1, question.subject.start
    ids = torch.tensor([question.ids])

    def corrupt(_: object, __: object, output: Tensor) -> Tensor:
        output[:, start : pos + 1] = 0.0
        return output

    def swap(_: object, __: object, output: Tensor) -> Tensor:
        if not kept:
            kept.append(output.clone())
            return output
        output[:, pos] = kept[0][:, pos]
        return output

    norm = block.get_submodule("post_feedforward_layernorm")
    handle = norm.register_forward_hook(swap)
    model.module(input_ids=ids)
    zeroed = model.module.get_input_embeddings().register_forward_hook(corrupt)
    logits = model.module(input_ids=ids).logits[0, -1]
    handle.remove()
    zeroed.remove()
    chance = float(torch.softmax(logits, -1)[question.answer_ids[0]])
    assert result.restored[0, pos, 2] == pytest.approx(chance, abs=1e-6)


def test_sliding_windows_shorter_than_the_prompt_are_kept() -> None:
    """With its window the model reads less, and the packed map knows."""
    fact = Fact.from_prompt("the Space Needle is a tower in downtown Seattle, in the state of", "Space Needle")
    narrow, wide = own("mistral", sliding_window=4), own("mistral", sliding_window=64)
    config = TraceConfig(samples=2)
    results = [causal_trace(model, fact, config, level=LEVEL) for model in (narrow, wide)]
    for model, result in zip((narrow, wide), results, strict=True):
        assert len(result.tokens) > 8
        assert result.engine == "packed"
        assert_agrees(model, fact, result, cells_of(result, 4, seed=1))
    assert not np.allclose(results[0].restored, results[1].restored, atol=1e-4)


@pytest.mark.parametrize("family", ["opt", "mixtral", "gptj", "phi", "cohere", "falcon", "gpt_neo"])
def test_these_families_pack(family: str) -> None:
    """No MLP module (OPT), experts (Mixtral), parallel blocks, patterns in a buffer (GPT-Neo)."""
    assert packs_exactly(tiny_model(family), run_hooked)
