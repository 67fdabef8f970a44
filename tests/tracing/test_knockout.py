"""Attention knockout: zeroed and renormalised weights by hand, on every family; edges of a prompt worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facts import Fact
from facts.watch import Cancelled, Watch
from models import LanguageModel
from models.forwards.attention import edges_cut
from tests.oracle import lenses as oracle
from tests.tiny import FAMILIES, HYBRIDS, build_tiny, tiny_model
from tracing import TraceConfig, causal_trace
from tracing.engine.question import Question, ask
from tracing.lenses.knockout import KnockoutResult, attention_knockout, paper_edges

FACT = Fact.from_prompt("the city of Paris is in", "Paris", "France")


RENORMALISED = [family for family in FAMILIES if family not in ("gpt_oss", *HYBRIDS)]
"""In gpt-oss a part of each head's attention goes to no token, and more of it where a token is cut."""


@pytest.mark.parametrize("family", RENORMALISED)
@pytest.mark.parametrize("window", [1, 3])
def test_cut_weights_are_zero_and_the_rest_renormalised(family: str, window: int) -> None:
    model = tiny_model(family)
    result = attention_knockout(model, FACT, window=window)
    module = build_tiny(family, attn_implementation="eager")[0]
    question = ask(model, FACT)
    ids = torch.tensor([question.ids])
    assert result.edges == ("last <- subject", "last <- relation", "last <- last")
    for edge, (queries, keys) in enumerate(paper_edges(question).values()):
        cut = torch.zeros(len(question.ids), len(question.ids), dtype=torch.bool)
        cut[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
        for layer in range(model.n_layers):
            layers = TraceConfig(window=window).layers_of(layer, model.n_layers)
            with torch.no_grad(), oracle.weights_cut(module, layers, cut):
                log_prob = torch.log_softmax(module(input_ids=ids).logits[0], -1)
            by_hand = sum(
                float(log_prob[question.n_prompt - 1 + i, token]) for i, token in enumerate(question.answer_ids)
            )
            assert result.log_prob[edge, layer] == pytest.approx(by_hand, abs=2e-4)
    assert np.ptp(result.change) > 1e-3


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_hybrid_has_layers_without_heads_and_edges(family: str) -> None:
    refusal = rf"layer 0 of this {family} model has no attention, so it has neither heads to trace nor edges to cut"
    with pytest.raises(ValueError, match=refusal):
        attention_knockout(tiny_model(family), FACT)
    with pytest.raises(ValueError, match=refusal):
        causal_trace(tiny_model(family), FACT, TraceConfig(site="attn_heads", samples=1))


def test_the_edges_of_the_paper() -> None:
    one = Question(ids=(5, 6, 7, 8, 9), n_prompt=5, answer_ids=(1,), subject=range(1, 3))
    assert paper_edges(one) == {
        "last <- subject": ([4], [1, 2]),
        "last <- relation": ([4], [0, 3]),
        "last <- last": ([4], [4]),
    }
    two = Question(ids=(5, 6, 7, 8, 9, 1), n_prompt=5, answer_ids=(1, 2), subject=range(0, 1))
    assert paper_edges(two)["last <- subject"] == ([4, 5], [0])
    assert paper_edges(two)["last <- last"] == ([4, 5], [4, 5])
    at_the_end = Question(ids=(5, 6), n_prompt=2, answer_ids=(1,), subject=range(1, 2))
    assert paper_edges(at_the_end) == {"last <- relation": ([1], [0]), "last <- last": ([1], [1])}


def test_edges_of_ones_own_and_what_they_refuse() -> None:
    model = tiny_model("gpt2")
    mine = attention_knockout(model, FACT, edges={"in <- is": ([8], [7]), "none": ([], [])}, window=4)
    assert mine.edges == ("in <- is", "none")
    np.testing.assert_allclose(mine.change[1], 0, atol=1e-5)
    assert np.abs(mine.change[0]).min() > 1e-5
    with pytest.raises(ValueError, match="leave position 1 nothing to read"):
        attention_knockout(model, FACT, edges={"all": ([1], [0, 1])})
    with pytest.raises(ValueError, match="name position 40; the prompt has 11 tokens"):
        attention_knockout(model, FACT, edges={"far": ([40], [0])})
    with pytest.raises(ValueError, match="the prompt 'The' is one token, which reads no other; write a longer one"):
        attention_knockout(model, Fact.from_prompt("The", "The"))
    with pytest.raises(ValueError, match="window is 5, but tiny gpt2 has 4 layers"):
        attention_knockout(model, FACT, window=5)


def test_batches_and_cancelling() -> None:
    model = tiny_model("mistral")
    whole = attention_knockout(model, FACT)
    seen: list[tuple[int, int]] = []
    parts = attention_knockout(model, FACT, batch_size=1, watch=Watch(lambda *done: seen.append(done[:2])))
    np.testing.assert_allclose(parts.log_prob, whole.log_prob, atol=1e-5)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(Cancelled):
        attention_knockout(model, FACT, watch=Watch(cancelled=lambda: True))


def test_half_precision_is_cut_too() -> None:
    half = LanguageModel("half", "0", build_tiny("gpt2")[0].to(torch.bfloat16), tiny_model("gpt2").tokenizer)
    exact = attention_knockout(tiny_model("gpt2"), FACT)
    np.testing.assert_allclose(attention_knockout(half, FACT).log_prob, exact.log_prob, atol=0.15)


def test_attention_that_ignores_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setattr("tracing.lenses.knockout.edges_cut", lambda model, cut: edges_cut(model, {}))
    with pytest.raises(ValueError, match="the attention of gpt2 models cannot be cut exactly"):
        attention_knockout(model, FACT)


def test_the_hooks_are_gone_afterwards() -> None:
    model = tiny_model("llama")
    attention_knockout(model, FACT)
    for layer in range(model.n_layers):
        module = model.module.get_submodule(model.architecture.attn_path(layer))
        assert not module._forward_pre_hooks


def test_a_knockout_is_a_table_and_a_file(tmp_path: Path) -> None:
    result = attention_knockout(tiny_model("opt"), FACT)
    frame = result.to_frame()
    assert len(frame) == 3 * result.n_layers
    np.testing.assert_allclose(frame["change"], (frame["p_cut"] - result.clean) / result.clean, atol=1e-5)
    result.save(tmp_path / "knockout.npz")
    assert KnockoutResult.load(tmp_path / "knockout.npz").to_json() == result.to_json()
