"""Logit and tuned lens: the last layer is the model itself, a plain oracle, a model whose lens is known, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facts import Fact
from models import LanguageModel
from tests.oracle import lenses as oracle
from tests.tiny import FAMILIES, SENTENCES, build_tiny, tiny_chat, tiny_model
from tracing.lenses.logit import LensResult, logit_lens
from tracing.lenses.tuned import TunedLens, fit_tuned_lens, own_texts, tuned_lens

FACT = Fact.from_prompt("the city of Paris is in", "Paris", "France")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_the_models_own_prediction(family: str) -> None:
    model = tiny_model(family)
    result = logit_lens(model, FACT, target="Rome", top_k=3)
    log_prob = torch.log_softmax(model.logits(torch.tensor([model.encode(FACT.prompt)]))[0], -1)
    for word, token in enumerate(result.word_ids):
        np.testing.assert_allclose(result.log_prob[word, :, -1], log_prob[:, token], atol=1e-4)
        rank = (log_prob > log_prob[:, token, None]).sum(-1) + 1
        np.testing.assert_array_equal(result.rank[word, :, -1], rank)
    top = log_prob[-1].topk(3)
    np.testing.assert_allclose(result.top_prob[-1, -1], top.values.exp(), atol=1e-4)
    assert list(result.top_words[-1][-1]) == [model.token_strings([int(token)])[0] for token in top.indices]
    assert result.words == ("France", "Rome")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gptj", "gpt_neox", "llama", "gemma", "opt", "phi"])
def test_every_cell_agrees_with_norm_and_head_applied_by_hand(family: str) -> None:
    model = tiny_model(family)
    result = logit_lens(model, FACT)
    states = oracle.block_outputs(model.module, model.encode(FACT.prompt))
    for layer, state in enumerate(states):
        by_hand = oracle.lens(model.module, state)
        np.testing.assert_allclose(result.probability()[:, layer], by_hand[:, result.word_ids[0]], atol=1e-5)
        np.testing.assert_allclose(result.top_prob[:, layer], by_hand.topk(5).values, atol=1e-5)
    assert np.ptp(result.log_prob[0]) > 1


def test_many_layers_go_to_the_head_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logit_lens(tiny_model("gpt2"), FACT)
    monkeypatch.setattr("tracing.lenses.logit.LOGITS_AT_ONCE", 1)
    parts = logit_lens(tiny_model("gpt2"), FACT)
    np.testing.assert_allclose(parts.log_prob, whole.log_prob, atol=1e-5)
    assert parts.top_words == whole.top_words


def test_the_models_own_answer_is_followed_where_none_is_given() -> None:
    model = tiny_model("llama")
    result = logit_lens(model, Fact.from_prompt(FACT.prompt, "Paris"))
    assert result.rank[0, -1, -1] == 1
    with pytest.raises(ValueError, match="only the answer was followed"):
        result.difference()
    both = logit_lens(model, FACT, target="Rome")
    np.testing.assert_allclose(both.difference(), both.log_prob[0] - both.log_prob[1])
    with pytest.raises(ValueError, match="top_k is 0; expected 1 to 384"):
        logit_lens(model, FACT, top_k=0)


def test_a_lens_is_a_table_and_a_file(tmp_path: Path) -> None:
    result = logit_lens(tiny_model("gpt2"), FACT, target="Rome")
    frame = result.to_frame()
    n_pos = len(result.tokens)
    assert len(frame) == 2 * n_pos * result.n_layers
    row = frame[(frame["word"] == "Rome") & (frame["position"] == 3) & (frame["layer"] == 2)].iloc[0]
    assert row["log_prob"] == result.log_prob[1, 3, 2]
    assert row["top"] == result.top_words[3][2][0]
    result.save(tmp_path / "lens.npz")
    again = LensResult.load(tmp_path / "lens.npz")
    assert again.to_json() == result.to_json()
    assert (again.tokens, again.top_words, again.subject_span) == (result.tokens, result.top_words, result.subject_span)
    np.testing.assert_array_equal(again.rank, result.rank)
    with pytest.raises(ValueError, match="holds no TunedLens"):
        TunedLens.load(tmp_path / "lens.npz")
    whole = (tmp_path / "lens.npz").read_bytes()
    stream = whole.index(b"header.npy") + 30  # the first bytes of a compressed array; found by the fuzzer
    for torn in (whole[:100], whole[:stream] + b"\xff" * 8 + whole[stream + 8 :]):
        (tmp_path / "torn.npz").write_bytes(torn)
        with pytest.raises(ValueError, match="is not a saved result"):
            LensResult.load(tmp_path / "torn.npz")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        LensResult.load(tmp_path / "absent.npz")


def shifting_model() -> LanguageModel:
    """Every block adds a constant of its own, so that the last layer's states are affine in every layer's."""
    module, tokenizer = build_tiny("gpt2")
    for block in module.transformer.h:
        for part in (block.attn.c_proj, block.mlp.c_proj):
            part.weight.zero_()
            part.bias.mul_(5)
    return LanguageModel("shifting", "0", module, tokenizer)


def test_a_tuned_lens_undoes_a_shift_that_misleads_the_logit_lens() -> None:
    model = shifting_model()
    plain = logit_lens(model, FACT)
    assert np.abs(plain.log_prob - plain.log_prob[:, :, -1:]).max() > 0.5
    lens = fit_tuned_lens(model, SENTENCES, ridge=1e-8)
    assert lens.explained.min() > 0.97  # the scale of the states is not affine
    tuned = tuned_lens(model, FACT, lens)
    gap = [np.abs(one.log_prob - one.log_prob[:, :, -1:])[:, 1:, :-1].mean() for one in (plain, tuned)]
    assert gap[1] < 0.1 * gap[0]
    assert tuned.lens == "tuned"


def test_the_translators_are_the_least_squares_solution() -> None:
    model = tiny_model("llama")
    lens = fit_tuned_lens(model, SENTENCES, ridge=0.0, batch_size=3)
    rows = [model.encode(text) for text in SENTENCES]
    kept = [oracle.block_outputs(model.module, row) for row in rows]
    states = [torch.cat([one[layer][1:] for one in kept]).double() for layer in range(4)]
    target = states[3] / states[3].square().mean(-1, keepdim=True).sqrt()
    assert lens.n_tokens == len(target)
    for layer in range(3):
        design = torch.cat([states[layer], torch.ones(len(target), 1, dtype=torch.float64)], 1)
        solution = torch.linalg.lstsq(design, target).solution
        np.testing.assert_allclose(lens.weight[layer], solution[:-1], atol=2e-3)
        np.testing.assert_allclose(lens.bias[layer], solution[-1], atol=2e-3)
        missed = (design @ solution - target).square().sum() / (target - target.mean(0)).square().sum()
        assert lens.explained[layer] == pytest.approx(1 - float(missed), abs=1e-4)


def test_a_tuned_lens_reads_the_last_layer_as_it_is_and_comes_closer_before(tmp_path: Path) -> None:
    model = tiny_model("gpt_neo")
    lens = fit_tuned_lens(model, SENTENCES)
    plain, tuned = logit_lens(model, FACT), tuned_lens(model, FACT, lens)
    np.testing.assert_allclose(tuned.log_prob[:, :, -1], plain.log_prob[:, :, -1], atol=1e-5)
    gap = [np.abs(one.log_prob - one.log_prob[:, :, -1:])[:, 1:, :-1].mean() for one in (plain, tuned)]
    assert gap[1] < gap[0]
    lens.save(tmp_path / "lens.npz")
    np.testing.assert_array_equal(tuned_lens(model, FACT, TunedLens.load(tmp_path / "lens.npz")).rank, tuned.rank)


def test_what_a_tuned_lens_refuses() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="needs 64 or more"):
        fit_tuned_lens(model, SENTENCES[:1])
    lens = fit_tuned_lens(model, SENTENCES)
    with pytest.raises(ValueError, match=r"was fitted on tiny gpt2 of revision .*, not on tiny llama"):
        tuned_lens(tiny_model("llama"), FACT, lens)
    assert own_texts(model, ["the city of"], 3)[0].startswith("the city of")
    chat = tiny_chat("gpt2")
    words = "the " * (chat.max_positions - len(chat.lead_ids) - 1)  # they fit, but not with the template's end
    assert own_texts(chat, [words, "the city"], 3)[0].startswith("the city")
