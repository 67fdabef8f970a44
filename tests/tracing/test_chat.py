"""Traces of a model that is asked in its chat template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facts import Fact
from models import LanguageModel
from tests.tiny import tiny_chat
from tracing import TraceConfig, TraceResult, causal_trace
from tracing.cli.tables import trace_table
from tracing.plots.maps import trace_heatmap

FACT = Fact.from_prompt("the Space Needle is in", "Space Needle")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_chat("llama")


@pytest.fixture(scope="module")
def result(model: LanguageModel) -> TraceResult:
    return causal_trace(model, FACT, TraceConfig(samples=3))


def test_the_template_before_the_prompt_has_no_effect(model: LanguageModel, result: TraceResult) -> None:
    assert result.lead == len(model.lead_ids) > 0
    assert not result.indirect_effect[: result.lead].any()
    assert "".join(result.tokens[result.subject_span[0] : result.subject_span[1]]).strip() == "Space Needle"
    assert result.model_name == "tiny chat (chat)"


def test_the_last_token_is_the_templates(model: LanguageModel, result: TraceResult) -> None:
    """Restoring the last layer there restores the answer; behind it the model's turn begins."""
    assert result.tokens[-1] == "\n"
    assert result.mean[-1, -1] == pytest.approx(result.clean, abs=1e-6)


def test_figures_begin_with_the_prompts_own_words(result: TraceResult, tmp_path: Path) -> None:
    own = result.own_words()
    assert own.tokens == result.tokens[result.lead :]
    np.testing.assert_array_equal(own.indirect_effect, result.indirect_effect[result.lead :])
    assert own.by("kl").restored.shape[1] == len(own.tokens)
    assert own.largest().position + result.lead == result.largest().position
    assert own.largest().low == result.largest().low
    assert "<|endoftext|>user" not in "".join(own.tokens)
    assert len(trace_heatmap(result).data[0].z) == len(own.tokens)
    assert "user" not in trace_table(result)
    result.save(tmp_path / "trace.npz")
    assert TraceResult.load(tmp_path / "trace.npz").lead == result.lead
