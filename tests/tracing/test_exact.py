"""Every kind of trace agrees with one plain forward for each restored run, on every architecture."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch

from facts import Fact
from models import FAMILIES, LanguageModel
from models.forwards.interventions import run_traced
from tests.oracle.causal_trace import Cell
from tests.tiny import HYBRIDS, REPLAYED, build_tiny, tiny_model
from tests.tracing.agreement import LEVEL, assert_agrees, cells_of, oracle_of
from tracing import TraceConfig, causal_trace
from tracing.config import Direction
from tracing.engine.tracer import trace_all
from tracing.sites import SITES, SeveredSite, TraceSite

FACT = Fact.from_prompt("the Space Needle is in", "Space Needle")
"""ALiBi made for the batch that came in (Bloom, MPT), or an output shaped like it (GPT-BigCode)."""
SEVERED: tuple[SeveredSite | None, ...] = (None, *get_args(SeveredSite))
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
DEEP = ("gpt2", "llama", "gemma2", "falcon", "bloom")


@cache
def deep_model(family: str) -> LanguageModel:
    """Ten layers, so that a window of ten has a middle."""
    return LanguageModel(f"deep {family}", "0", *build_tiny(family, num_hidden_layers=10))


@pytest.mark.parametrize(
    ("family", "site"), [pair for pair in product(FAMILIES, SITES) if pair[0] not in HYBRIDS or pair[1] != "attn_heads"]
)
def test_a_cell_is_a_forward_of_its_own(family: str, site: TraceSite) -> None:
    model = tiny_model(family)
    configs = [
        TraceConfig(site=site, window=window, severed=severed, direction=direction, samples=2)
        for window, severed, direction in product((1, 3, 4), SEVERED, DIRECTIONS)
    ]
    for number, result in enumerate(trace_all(model, FACT, configs, level=LEVEL)):
        assert result.engine == ("replay" if family in REPLAYED else "packed")
        assert np.ptp(result.restored) > 1e-5  # the map is not flat, so agreement says something
        assert_agrees(model, FACT, result, cells_of(result, 1, seed=number))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom"])
def test_a_restored_module_is_not_severed_in_its_own_layers(family: str) -> None:
    """Severing the restored module itself: its layers keep what is restored, the layers behind are held.

    In the last layer nothing lies behind, so that the map is the one without severing; in earlier layers it is not, and
    it is nowhere the corrupted run, which it would be if the held value won (as in ROME's public code).
    """
    both = [TraceConfig(site="mlp_out", severed=severed, samples=2) for severed in (None, "mlp_out")]
    plain, severed = trace_all(tiny_model(family), FACT, both, level=LEVEL)  # type: ignore[arg-type]
    np.testing.assert_allclose(severed.restored[..., -1], plain.restored[..., -1], rtol=1e-4)
    subject = slice(*severed.subject_span)
    assert (np.abs(severed.restored[:, subject, 0] - plain.restored[:, subject, 0]) > 1e-6).any()
    last = severed.restored[:, -1, -1]
    assert (np.abs(last / severed.corrupted - 1) > 1e-3).all()


@pytest.mark.parametrize("centre", ["paper", "rome-code"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", DEEP)
def test_windows_of_ten_layers(family: str, site: TraceSite, centre: str) -> None:
    model = deep_model(family)
    config = TraceConfig(site=site, window=10, window_centre=centre, samples=2)  # type: ignore[arg-type]
    result = causal_trace(model, FACT, config, level=LEVEL)
    assert_agrees(model, FACT, result, cells_of(result, 3, seed=1))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "opt", "mpt"])
def test_longer_answers_are_products_under_teacher_forcing(family: str, site: TraceSite, direction: Direction) -> None:
    model = tiny_model(family)
    # likely tokens, so that the probability is not lost in rounding
    fact = Fact.from_prompt(
        FACT.prompt, FACT.subject, model.generate([FACT.prompt], 2)[0].strip("\0 ") or "Rome and Oslo"
    )
    config = TraceConfig(site=site, window=2, direction=direction, samples=2)
    result = causal_trace(model, fact, config, level=LEVEL)
    assert len(result.answer_ids) > 1
    last = len(result.tokens) - 1
    cells = [*cells_of(result, 3, seed=2), (0, last, model.n_layers - 1, 0 if site == "attn_heads" else None)]
    assert_agrees(model, fact, result, cells)


def test_every_measure_of_a_cell() -> None:
    model = tiny_model("gpt2")
    fact = Fact.from_prompt(FACT.prompt, FACT.subject, "Rome and Oslo")
    config = TraceConfig(site="mlp_out", window=2, samples=2, against="Paris")
    result = causal_trace(model, fact, config, level=LEVEL)
    oracle = oracle_of(model, fact, config)
    other = model.encode(" Paris")[0]
    answer = list(result.answer_ids)
    clean = torch.log_softmax(oracle.run(None), -1)
    for sample, pos, layer, _ in cells_of(result, 3, seed=3):
        logits = oracle.restored(Cell(pos, config.layers_of(layer, model.n_layers)), sample)
        log_q = torch.log_softmax(logits, -1)
        chosen = torch.tensor([float(row[token]) for row, token in zip(logits, answer, strict=True)])
        expected = {
            "log_probability": float(sum(row[token] for row, token in zip(log_q, answer, strict=True))),
            "logit_difference": float(logits[0, answer[0]] - logits[0, other]),
            "kl": float((clean.exp() * (clean - log_q)).sum()),
            "rank": float(((logits > chosen[:, None]).sum(-1) + 1).max()),
        }
        for measure, value in expected.items():
            found = result.by(measure).restored[sample, pos, layer]  # type: ignore[arg-type]
            assert found == pytest.approx(value, abs=1e-4), measure
    assert result.by("kl").clean == pytest.approx(0.0, abs=1e-5)
    assert result.by("kl").by("probability").clean == result.clean


def test_the_logits_of_another_subject_are_held_against_its_own_answer() -> None:
    model = tiny_model("llama")
    fact, other = Fact.from_prompt("the city of Paris is in", "Paris"), "Berlin"
    config = TraceConfig(corruption="token", counterfactual=other)
    result = causal_trace(model, fact, config, level=LEVEL)
    assert result.config.n_samples == len(result.corrupted) == 1
    logits = model.logits(torch.tensor([model.encode(fact.template.replace("{}", other))]))[0, -1]
    its_own, answer = int(logits.argmax()), result.answer_ids[0]
    assert its_own != answer
    assert result.against == model.token_strings([its_own])[0]
    assert result.corrupted[0] == pytest.approx(float(torch.softmax(logits, -1)[answer]), abs=1e-6)
    difference = result.by("logit_difference")
    assert difference.corrupted[0] == pytest.approx(float(logits[answer] - logits[its_own]), abs=1e-4)
    assert difference.clean > 0 > difference.corrupted[0]
    assert_agrees(model, fact, result, cells_of(result, 3, seed=4))


@pytest.mark.parametrize("site", SITES)
def test_replay_and_packed_give_the_same_map(site: TraceSite) -> None:
    model = tiny_model("gpt_neo")
    configs = [
        TraceConfig(site=site, window=window, severed=severed, samples=3, batch_size=5)
        for window, severed in product((1, 3), SEVERED)
    ]
    packed = trace_all(model, FACT, configs, level=LEVEL)
    replayed = trace_all(model, FACT, configs, level=LEVEL, engine="replay")
    for one, other in zip(packed, replayed, strict=True):
        assert (one.engine, other.engine) == ("packed", "replay")
        np.testing.assert_allclose(one.restored, other.restored, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gpt_neox", "gemma3_text", "opt", "mixtral", "bloom"])
def test_nnsight_gives_the_same_map_as_hooks(family: str) -> None:
    model = tiny_model(family)
    configs = [TraceConfig(site=site, window=3, severed="mlp_out", samples=2) for site in SITES]
    hooked = trace_all(model, FACT, configs, level=LEVEL)
    calls = 0

    def driver(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return run_traced(*arguments)

    traced = trace_all(model, FACT, configs, level=LEVEL, driver=driver)
    assert calls > len(configs)
    for one, other in zip(hooked, traced, strict=True):
        assert one.engine == other.engine
        np.testing.assert_allclose(one.restored, other.restored, atol=1e-5)
