"""The paper's figure on SmolLM2 (Meng et al. 2022, figure 1): an early site at the subject, a late one at the end.

The fact is carried by *iffel*, the second of the three tokens of "Eiffel Tower", and not by the last one.
"""

from __future__ import annotations

import numpy as np
import pytest

from facts import Fact
from models import LanguageModel
from tracing import TraceConfig, TraceResult, causal_trace

EIFFEL = Fact.from_prompt("The Eiffel Tower is located in the city of", "Eiffel Tower", "Paris")


@pytest.fixture(scope="module")
def trace(smollm2: LanguageModel) -> TraceResult:
    """Ten samples, states; positions are *iffel*, ␣Tower and the last token."""
    tokens = smollm2.token_strings(smollm2.encode(EIFFEL.prompt))
    where = [tokens.index("iffel"), tokens.index(" Tower"), len(tokens) - 1]
    return causal_trace(smollm2, EIFFEL, TraceConfig(samples=10), positions=where)


def test_the_model_knows_the_fact_and_the_noise_takes_it_away(trace: TraceResult) -> None:
    assert trace.answer_is_greedy
    assert trace.clean > 0.6
    assert trace.total_effect > 0.5


def test_the_early_site_is_a_token_inside_the_subject(trace: TraceResult) -> None:
    effect = trace.indirect_effect[trace.tokens.index("iffel")]
    assert np.argmax(effect) < 10
    assert effect[:10].min() > 0.3
    assert effect.max() >= 0.4
    assert np.abs(effect[24:]).max() < 0.05


def test_the_last_subject_token_carries_nothing(trace: TraceResult) -> None:
    effect = trace.indirect_effect[trace.tokens.index(" Tower")]
    assert np.abs(effect).max() < 0.05


def test_the_late_site_is_the_last_token(trace: TraceResult) -> None:
    effect = trace.indirect_effect[-1]
    assert np.abs(effect[:20]).max() < 0.1
    assert effect[23:].min() >= 0.4


def test_the_last_subject_token_is_suggested_no_layer_and_the_token_that_carries_the_fact_is_named(
    trace: TraceResult,
) -> None:
    """The largest effect at ␣Tower is about .01 of .68: with ten paired samples it may well differ from 0."""
    largest, found = trace.largest(), trace.suggestion()
    assert largest.token == "iffel"
    assert largest.effect >= 0.4
    assert largest.low > 0.1
    assert found.layer is None
    assert found.cell is not None
    assert abs(found.cell.effect) < 0.05
    assert found.elsewhere is not None
    assert (found.elsewhere.token, found.elsewhere.layer) == (largest.token, largest.layer)
    assert "Token iffel carries more" in found.reason
    assert trace.suggestion(largest.position).layer == largest.layer
    record = trace.to_dict()
    assert record["suggested"] is None
    assert record["largest"]["token"] == "iffel"
    assert record["p_clean"] == pytest.approx(trace.clean)
