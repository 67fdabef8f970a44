"""Averages by kind of token: hand-worked positions, agreement with single traces, unknown facts left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from facts import Fact
from models import LanguageModel
from tests.tiny import tiny_model
from tests.tracing.made import made_result
from tracing import TraceCancelled, TraceConfig, average_effects, causal_trace, measure_noise
from tracing.average import by_category, category_positions
from tracing.types import CATEGORIES

PROMPTS = (("the Space Needle is in", "Space Needle"), ("in Rome", "Rome"), ("so x is in the city of", "x"))
CONFIGS = [TraceConfig(samples=2), TraceConfig(site="mlp_out", window=3, samples=2)]


def known_facts(model: LanguageModel) -> list[Fact]:
    """Facts whose answer is what the random model says anyway, where that is a word."""
    facts = []
    for prompt, subject in PROMPTS:
        for extra in ("", " old", " big", " new", " Oslo", " tall", " 7"):
            start = prompt + extra
            token = int(model.logits(torch.tensor([model.encode(start)]))[0, -1].argmax())
            word = model.token_strings([token])[0]
            if word.startswith(" ") and word.strip() and word.isprintable():
                facts.append(Fact.from_prompt(start, subject, word.strip()))
    return facts


def test_the_kinds_of_tokens() -> None:
    tokens = tuple("abcdefgh")
    restored = np.zeros((2, 8, 3), dtype=np.float32)
    long = made_result(tokens=tokens, subject_span=(1, 4), restored=restored)
    assert [list(group) for group in category_positions(long)] == [[1], [2], [3], [4], [5, 6], [7]]
    single = made_result(tokens=tokens, subject_span=(6, 7), restored=restored)
    assert [list(group) for group in category_positions(single)] == [[6], [], [6], [], [], [7]]
    at_the_end = made_result(tokens=tokens, subject_span=(6, 8), restored=restored)
    assert [list(group) for group in category_positions(at_the_end)] == [[6], [], [7], [], [], [7]]


def test_a_category_is_the_mean_of_its_tokens() -> None:
    effects = by_category(made_result())  # subject 1..2 of 4 tokens
    assert effects.shape == (6, 3)
    np.testing.assert_allclose(effects[CATEGORIES.index("last_subject")], [0.2, 0.5, 0.4], atol=1e-7)
    assert np.isnan(effects[CATEGORIES.index("middle_subject")]).all()


def test_averages_equal_the_mean_of_single_traces() -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model)
    assert len(facts) >= 3, "the tiny model should say a word after some of the prompts"
    unknown = Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen")
    seen: list[tuple[int, int]] = []
    average = average_effects(model, [*facts, unknown], CONFIGS, progress=lambda *done: seen.append(done))
    level = measure_noise(model, [fact.subject for fact in [*facts, unknown]])
    assert (average.n_facts, average.n_unknown) == (len(facts), 1)
    assert seen[-1] == (len(facts) + 1, len(facts) + 1)
    traces = [causal_trace(model, fact, CONFIGS[1], level=level) for fact in facts]
    by_hand = np.mean([trace.indirect_effect[trace.subject_span[1] - 1] for trace in traces], axis=0)
    np.testing.assert_allclose(average.last_subject("mlp_out"), by_hand, atol=1e-6)
    by_hand = np.mean([trace.indirect_effect[-1] for trace in traces], axis=0)
    np.testing.assert_allclose(average.last_token("mlp_out"), by_hand, atol=1e-6)
    assert average.ate == pytest.approx(np.mean([trace.total_effect for trace in traces]), abs=1e-6)
    low, high = average.ate_ci()
    assert low <= average.ate <= high
    frame = average.to_frame()
    assert len(frame) == 2 * 6 * model.n_layers
    assert set(frame["site"]) == {"resid_post", "mlp_out"}
    json.dumps(average.to_dict(), allow_nan=False)


def test_two_positions_are_enough_for_two_categories() -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model)
    whole = average_effects(model, facts, CONFIGS)
    part = average_effects(model, facts, CONFIGS, positions=("last_subject", "last_token"))
    np.testing.assert_allclose(part.last_subject(), whole.last_subject(), atol=1e-6)
    np.testing.assert_allclose(part.last_token(), whole.last_token(), atol=1e-6)
    assert np.isnan(part.mean("resid_post", "first_subject")).all()
    assert part.n("resid_post", "further_tokens") == 0


def test_what_cannot_be_averaged_is_said() -> None:
    model = tiny_model("gpt_neo")
    unknown = Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen")
    with pytest.raises(ValueError, match="answers none of the 1 facts"):
        average_effects(model, [unknown], CONFIGS)
    with pytest.raises(ValueError, match="has no true answer"):
        average_effects(model, [Fact.from_prompt("Rome is in", "Rome")], CONFIGS)
    with pytest.raises(TraceCancelled, match="after 0 of 1 facts"):
        average_effects(model, [unknown], CONFIGS, cancelled=lambda: True)
    average = average_effects(model, known_facts(model)[:1], CONFIGS[:1])
    with pytest.raises(ValueError, match="'attn_out' was not traced"):
        average.mean("attn_out", "last_token")
    with pytest.raises(ValueError, match="unknown token category"):
        average.mean("resid_post", "verb")  # type: ignore[arg-type]
