"""Packed sweeps, replay and hand-written hooks give the same numbers on a pretrained model with grouped heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from facts import Fact
from facts.atlas import load_atlas
from models import LanguageModel
from models.forwards.interventions import run
from tests.oracle.plain_hooks import hooked
from tests.tracing.agreement import assert_agrees, cells_of
from tracing import NoiseLevel, TraceConfig, causal_trace, measure_noise, trace_facts

EIFFEL = Fact.from_prompt("The Eiffel Tower is located in the city of", "Eiffel Tower", "Paris")
EXACT = 1e-5
"""Largest difference of probabilities."""
KINDS: dict[str, dict[str, Any]] = {
    "states": {},
    "MLP windows": {"site": "mlp_out", "window": 10},
    "attention windows": {"site": "attn_out", "window": 10},
    "severed MLP": {"severed": "mlp_out"},
    "noising": {"direction": "noising"},
}


@pytest.fixture(scope="module")
def level(smollm2: LanguageModel) -> NoiseLevel:
    return measure_noise(smollm2, load_atlas().subjects())


@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_replayed(smollm2: LanguageModel, level: NoiseLevel, kind: str) -> None:
    """`python -m benchmarks.tracing.agreement` does it for whole maps of twenty prompts."""
    config, iffel = TraceConfig(samples=1, **KINDS[kind]), 2
    packed, replayed = (
        causal_trace(smollm2, EIFFEL, config, level=level, positions=[iffel], engine=engine)
        for engine in ("packed", "replay")
    )
    assert (packed.engine, replayed.engine) == ("packed", "replay")
    assert np.ptp(packed.restored[:, iffel]) > 0.01  # the map is not flat, so agreement says something
    np.testing.assert_allclose(packed.restored[:, iffel], replayed.restored[:, iffel], atol=EXACT, rtol=0)


@pytest.mark.parametrize("fact", ["Marie Curie was born in the city of", "The mother tongue of Marie Curie is"])
def test_packed_is_replayed_for_other_prompts(smollm2: LanguageModel, level: NoiseLevel, fact: str) -> None:
    asked = Fact.from_prompt(fact, "Marie Curie")
    where = ("last_subject", "last_token")
    packed, replayed = (
        causal_trace(smollm2, asked, TraceConfig(samples=1), level=level, positions=where, engine=engine)
        for engine in ("packed", "replay")
    )
    np.testing.assert_allclose(packed.restored, replayed.restored, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        TraceConfig(samples=2),
        TraceConfig(samples=1, site="mlp_out", window=10),
        TraceConfig(samples=1, site="attn_out", window=3, severed="mlp_out"),
        TraceConfig(samples=1, site="attn_heads"),
    ],
    ids=lambda config: config.site,
)
def test_a_cell_is_a_forward_with_hooks_written_by_hand(
    smollm2: LanguageModel, level: NoiseLevel, config: TraceConfig
) -> None:
    last = len(smollm2.encode(EIFFEL.prompt)) - 1
    where = [last - 1, last] if config.site == "attn_heads" else [2, last]  # 270 heads behind *iffel* take long
    result = causal_trace(smollm2, EIFFEL, config, level=level, positions=where)
    cells = [cell for cell in cells_of(result, 60, seed=1) if cell[1] in where][:3]
    assert len(cells) == 3
    assert_agrees(smollm2, EIFFEL, result, cells, level)


def test_heads_are_those_that_query(smollm2: LanguageModel, level: NoiseLevel) -> None:
    """Nine heads query, three hold keys and values; a head's part of what the output projection reads is 64 wide."""
    last = len(smollm2.encode(EIFFEL.prompt)) - 1
    heads = causal_trace(smollm2, EIFFEL, TraceConfig(site="attn_heads", samples=1), level=level, positions=[last])
    assert heads.restored.shape == (1, last + 1, 30, 9)
    config = smollm2.module.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    effect = heads.indirect_effect[last]
    # a few heads fetch the answer late, as an attention layer as a whole does
    assert effect.max() > 0.01
    assert np.unravel_index(effect.argmax(), effect.shape)[0] >= 15


def test_several_facts_share_a_sweep(smollm2: LanguageModel, level: NoiseLevel) -> None:
    facts = [EIFFEL, Fact.from_prompt("Marie Curie was born in the city of", "Marie Curie")]
    config, where = TraceConfig(samples=1), ("last_token",)
    shared = trace_facts(smollm2, facts, [config], level=level, positions=where, together=2)
    for fact, (found,) in zip(facts, shared, strict=True):
        alone = causal_trace(smollm2, fact, config, level=level, positions=where)
        np.testing.assert_allclose(found.restored, alone.restored, atol=EXACT, rtol=0)


def test_activations_are_those_of_hooks_written_by_hand(smollm2: LanguageModel) -> None:
    """Reading every site and writing at one, through nnsight and through plain hooks."""
    ids = torch.tensor([smollm2.encode(EIFFEL.prompt)])
    keys = [("embed", 0), *((site, 7) for site in ("attn_heads", "attn_out", "mlp_key", "mlp_out", "resid_post"))]

    def halve(value: torch.Tensor) -> torch.Tensor:
        return value * 0.5

    patches = {("mlp_out", 3): halve}
    found = run(smollm2, ids, captures=keys, patches=patches)  # type: ignore[arg-type]
    logits, captured = hooked(smollm2, ids, keys, patches)
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=0)
    assert captured["attn_heads", 7].shape == (1, ids.shape[1], 9 * 64)
    assert captured["mlp_key", 7].shape == (1, ids.shape[1], 1536)
    for key in keys:
        torch.testing.assert_close(found.captured[key], captured[key], rtol=0, atol=0)  # type: ignore[index]


def test_a_map_of_one_position_is_a_column_of_a_larger_one(smollm2: LanguageModel, level: NoiseLevel) -> None:
    few, more = (
        causal_trace(smollm2, EIFFEL, TraceConfig(samples=1), level=level, positions=where) for where in ([3], [3, 5])
    )
    np.testing.assert_allclose(few.restored[:, 3], more.restored[:, 3], atol=EXACT, rtol=0)
    assert np.isnan(few.restored[:, 5]).all()
