"""A trace held against the oracle: one plain forward for each restored run."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from facts import Fact
from models import LanguageModel
from tests.oracle.causal_trace import Cell, Oracle
from tracing import NoiseLevel, TraceConfig, TraceResult
from tracing.corruption import corrupt
from tracing.engine.question import ask

LEVEL = NoiseLevel(0.4, "a test")
EXACT = 1e-5
"""Largest difference of probabilities."""
Where = tuple[int, int, int, int | None]
"""(sample, pos, layer, head)."""


def oracle_of(model: LanguageModel, fact: Fact, config: TraceConfig, level: NoiseLevel = LEVEL) -> Oracle:
    """The same prompt, corruption and setting, told to the oracle."""
    question = ask(model, fact)
    clean = model.embedding(question.ids[question.subject.start : question.subject.stop])
    return Oracle(
        model.module,
        [*question.ids, question.answer_ids[-1]],
        question.n_prompt,
        question.subject,
        corrupt(model, fact, question.subject, clean, config, level).embeddings,
        config.site,
        config.severed,
        config.direction == "noising",
        model.n_heads,
    )


def cells_of(result: TraceResult, count: int, seed: int) -> list[Where]:
    """Some cells that had to be run: from the subject on, each with a sample and, among heads, a head."""
    generator = torch.Generator().manual_seed(seed)

    def draw(start: int, stop: int) -> int:
        return int(torch.randint(start, stop, (1,), generator=generator))

    def where() -> Where:
        head = draw(0, result.restored.shape[3]) if result.restored.ndim == 4 else None
        pos, layer = draw(result.subject_span[0], len(result.tokens)), draw(0, result.n_layers)
        return draw(0, len(result.corrupted)), pos, layer, head

    return [where() for _ in range(count)]


def assert_agrees(
    model: LanguageModel, fact: Fact, result: TraceResult, cells: Iterable[Where], level: NoiseLevel = LEVEL
) -> None:
    """Clean, corrupted and restored probabilities equal the oracle's."""
    config = result.config
    oracle = oracle_of(model, fact, config, level)
    assert result.clean == pytest.approx(oracle.probability(oracle.run(None)), abs=EXACT, rel=1e-3)
    for sample, pos, layer, head in cells:
        assert result.corrupted[sample] == pytest.approx(oracle.probability(oracle.run(sample)), abs=EXACT, rel=1e-3)
        cell = Cell(pos, config.layers_of(layer, model.n_layers), head)
        expected = oracle.probability(oracle.restored(cell, sample))
        found = result.restored[(sample, pos, layer) if head is None else (sample, pos, layer, head)]
        assert found == pytest.approx(expected, abs=EXACT, rel=1e-3), (config, sample, pos, layer, head)
