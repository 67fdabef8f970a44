"""The corruption: Gaussian noise on the subject's embeddings.  Meng et al. 2022, section 2.1 (arXiv:2202.05262).

    h*_i = h_i + eps,    eps ~ N(0, nu^2),    nu = 3 sigma

`sigma` is the standard deviation over **all elements** of the embedding outputs of many subjects, each tokenised alone
(unbiased, pooled over tokens and dimensions, duplicates kept), as the paper's code measures it.  A prompt's own subject
is too small a sample for that, so without a list of subjects sigma is measured over the whole vocabulary's embeddings.
Either way the absolute value and what it was measured on stand in the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models import LanguageModel


@dataclass(frozen=True)
class NoiseLevel:
    """The spread of a model's embeddings, measured once and good for many traces.

    Raises:
        ValueError: if `sigma` is not a finite number, 0 or more.
    """

    sigma: float
    """Standard deviation of the elements of the embedding outputs, in units of the embedding."""
    source: str
    """What it was measured on, in words."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"the embeddings' standard deviation is {self.sigma}; expected a number, 0 or more")


def measure_noise(model: LanguageModel, subjects: Sequence[str] = ()) -> NoiseLevel:
    """The standard deviation of the embedding outputs of `subjects`, or of the whole vocabulary when there are none.

    Args:
        subjects: names such as "Space Needle"; tokenised alone, without special tokens or a leading space.

    Raises:
        ValueError: if the subjects hold fewer than two tokens together.
    """
    if not subjects:
        ids = list(range(model.d_vocab))
        source = f"the embeddings of all {model.d_vocab} tokens of the vocabulary"
    else:
        ids = [token for subject in subjects for token in model.tokenize(subject, special_tokens=False)]
        source = f"the embeddings of {len(subjects)} subjects ({len(ids)} tokens)"
        if len(ids) < 2:
            raise ValueError(f"the subjects hold {len(ids)} tokens; give more, or none for the whole vocabulary")
    # The module's output, not its weight: some families scale their embeddings.
    return NoiseLevel(float(model.embedding(ids).cpu().double().std()), source)


def draw_noise(samples: int, n_subject: int, d_model: int, seed: int) -> Tensor:
    """Unit Gaussian noise, float32 on the CPU, [samples, n_subject, d_model].

    The first S of a larger draw are the draw of size S, so adding samples refines a trace instead of replacing it.
    """
    generator = torch.Generator().manual_seed(seed)
    # One draw per sample: torch fills large tensors in blocks, which would break the prefix property.
    return torch.stack([torch.randn(n_subject, d_model, generator=generator) for _ in range(samples)])
