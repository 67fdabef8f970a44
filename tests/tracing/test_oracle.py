"""The engine agrees with one plain forward per cell, for every family, site and window, and for longer answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facts import Fact
from models import LanguageModel
from tests.oracle import causal_trace as oracle
from tests.tiny import FAMILIES, tiny_model
from tracing import NoiseLevel, TraceConfig, TraceResult, causal_trace
from tracing.corruption import draw_noise
from tracing.engine import Engine
from tracing.tracer import ask
from tracing.types import SITES

PROMPT, SUBJECT, SAMPLES = "the Space Needle is in", "Space Needle", 2
LEVEL = NoiseLevel(0.4, "a test")
CONFIGS = [TraceConfig(site=site, window=w, samples=SAMPLES, batch_size=37) for site in SITES for w in (1, 3, 4)]


def two_token_answer(model: LanguageModel) -> str:
    """A likely answer of several tokens, so that its probability is not lost in rounding."""
    return model.generate([PROMPT], 2)[0].strip() or " Rome and Oslo"


def expected(model: LanguageModel, fact: Fact, config: TraceConfig) -> tuple[float, np.ndarray, np.ndarray]:
    question = ask(model, fact)
    noise = config.noise * LEVEL.sigma * draw_noise(SAMPLES, len(question.subject), model.d_model, config.seed)
    windows = [config.layers_of(layer, model.n_layers) for layer in range(model.n_layers)]
    ids = [*question.ids, question.answer_ids[-1]]
    return oracle.trace(model.module, ids, question.n_prompt, question.subject, noise, config.site, windows)


def assert_agrees(result: TraceResult, truth: tuple[float, np.ndarray, np.ndarray]) -> None:
    clean, corrupted, restored = truth
    assert result.clean == pytest.approx(clean, abs=1e-5)
    np.testing.assert_allclose(result.corrupted, corrupted, atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(result.restored, restored, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.site}-{config.window}")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_equals_a_forward_of_its_own(family: str, config: TraceConfig) -> None:
    model, fact = tiny_model(family), Fact.from_prompt(PROMPT, SUBJECT)
    result = causal_trace(model, fact, config, level=LEVEL)
    assert result.engine == "sweep"
    assert np.ptp(result.restored) > 1e-4  # the map is not flat, so agreement says something
    assert_agrees(result, expected(model, fact, config))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_longer_answers_are_products_under_teacher_forcing(family: str, site: str) -> None:
    model = tiny_model(family)
    fact = Fact.from_prompt(PROMPT, SUBJECT, two_token_answer(model))
    config = TraceConfig(site=site, window=2, samples=SAMPLES)  # type: ignore[arg-type]
    result = causal_trace(model, fact, config, level=LEVEL)
    assert len(result.answer_ids) > 1
    assert_agrees(result, expected(model, fact, config))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.site}-{config.window}")
def test_replay_gives_the_same_numbers(config: TraceConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fact = tiny_model("gpt_neo"), Fact.from_prompt(PROMPT, SUBJECT)
    swept = causal_trace(model, fact, config, level=LEVEL)
    monkeypatch.setattr(Engine, "grows_exactly", lambda self: False)
    replayed = causal_trace(model, fact, config, level=LEVEL)
    assert replayed.engine == "replay"
    np.testing.assert_allclose(replayed.restored, swept.restored, atol=1e-5)


@pytest.mark.parametrize("fault", ["raises", "wrong numbers"])
def test_a_model_whose_batch_cannot_grow_is_found_out(fault: str) -> None:
    model, fact, config = tiny_model("llama"), Fact.from_prompt(PROMPT, SUBJECT), TraceConfig(samples=3, batch_size=3)
    view = model.view()

    def tied_to_its_batch(_: object, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> object:
        state = kwargs["hidden_states"]
        if state.shape[0] in (1, config.samples):  # what whole forwards have here
            return None
        if fault == "raises":
            raise RuntimeError("the size of tensor a must match the size of tensor b")
        return args, {**kwargs, "hidden_states": state * 1.01}

    block = view.module.get_submodule("model.layers.2.self_attn")
    block.register_forward_pre_hook(tied_to_its_batch, with_kwargs=True)
    result = causal_trace(view, fact, config, level=LEVEL)
    assert result.engine == "replay"
    np.testing.assert_allclose(result.restored, causal_trace(model, fact, config, level=LEVEL).restored, atol=1e-5)
