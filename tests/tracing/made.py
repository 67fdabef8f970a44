"""Hand-made traces for tests of results and figures: no model needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tracing.config import TraceConfig
from tracing.types import TraceResult


def made_result(**changes: Any) -> TraceResult:
    """Two samples, four tokens, three layers; clean 0.9, corrupted 0.1 and 0.3; subject " Space Needle"."""
    restored = np.full((2, 4, 3), 0.1, dtype=np.float32)
    restored[1] = 0.3
    restored[:, 2] = [[0.3, 0.7, 0.5], [0.5, 0.7, 0.7]]  # last subject token
    restored[:, 3] = [[0.1, 0.2, 0.9], [0.3, 0.4, 0.9]]  # last token
    result = TraceResult(
        config=TraceConfig(samples=2),
        model_name="made",
        revision="0123456789abcdef",
        prompt="The Space Needle is",
        subject="Space Needle",
        tokens=("The", " Space", " Needle", " is"),
        subject_span=(1, 3),
        answer="Seattle",
        answer_ids=(7,),
        predicted=" Seattle",
        answer_is_greedy=True,
        noise_std=0.15,
        noise_source="the embeddings of 3 subjects (9 tokens)",
        engine="packed",
        clean=0.9,
        corrupted=np.array([0.1, 0.3], dtype=np.float32),
        restored=restored,
    )
    return replace(result, **changes)


def heads_result() -> TraceResult:
    """The same of three heads, of which only head 2 of layer 1 has an effect at the last token: 0.5."""
    restored = np.zeros((2, 4, 3, 3), dtype=np.float32)
    restored[:] = np.array([0.1, 0.3]).reshape(2, 1, 1, 1)
    restored[:, 3, 1, 2] += 0.5
    return made_result(config=TraceConfig(site="attn_heads", samples=2), restored=restored)


def three_samples() -> TraceResult:
    """`made_result` with a third noise sample, the mean of its two."""
    two = made_result()
    whole = [np.concatenate([each, each.mean(axis=0, keepdims=True)]) for each in (two.corrupted, two.restored)]
    return made_result(config=TraceConfig(samples=3), corrupted=whole[0], restored=whole[1])
