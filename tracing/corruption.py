"""The embeddings that replace the subject's in the corrupted run.  Meng et al. 2022 (arXiv:2202.05262).

Every kind of corruption gives embeddings h* for the subject's positions, so the engine does not depend on the kind.
With h the clean embeddings, sigma the measured spread, k = `config.noise`, and z drawn from the seed:

    gaussian        h* = h + k sigma z, z ~ N(0, 1)     section 2.1, k = 3
    gaussian_fixed  h* = h + k z                        the published code's plain number
    uniform         h* = h + k sigma z, z ~ U(-1, 1)    appendix B.4, k = 3
    multivariate    h* = h + mu + k (x - mu), x ~ N(mu, Sigma) of the embeddings    appendix B.4, k = 1
    token           h* = embeddings of another subject of as many tokens   (Zhang & Nanda 2023, arXiv:2309.16042)
    zero, mean      h* = 0, or the mean embedding

`additive = False` leaves h out of the first four (the published code's `replace`); the others always replace.

`sigma` is the standard deviation over **all elements** of the embedding outputs of many subjects, each tokenised alone
(unbiased, pooled over tokens and dimensions, duplicates kept), as the paper's code measures it.  One subject
is too small a sample, so without a list of subjects sigma is measured over the whole vocabulary's embeddings.  The
result states the absolute value and what it was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facts import Fact
from models import LanguageModel
from tracing.config import TraceConfig


@dataclass(frozen=True)
class NoiseLevel:
    """The spread of a model's embeddings, which can be measured once and used for many traces.

    Raises:
        ValueError: if `sigma` is not a finite number, 0 or more.
    """

    sigma: float
    """Standard deviation of the elements of the embedding outputs, in units of the embedding."""
    source: str
    """What it was measured on, in words."""
    tokens: tuple[int, ...] = ()
    """The token ids it was measured on, duplicates kept; none for the whole vocabulary."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"the embeddings' standard deviation is {self.sigma}; expected a number, 0 or more")


@dataclass(frozen=True, eq=False)
class Corruption:
    """The embeddings at the subject's positions in the corrupted runs."""

    embeddings: Tensor
    """[sample, n_subject, d_model], float32 on the CPU, to be written at the "embed" site; one sample if nothing is
    drawn."""
    std: float
    """Standard deviation of an element of the noise, in units of the embedding; 0 where nothing is drawn."""
    source: str
    """What was done, in words that can follow "corrupted with"."""


def measure_noise(model: LanguageModel, subjects: Sequence[str] = ()) -> NoiseLevel:
    """The standard deviation of the embedding outputs of `subjects`, or of the whole vocabulary when there are none.

    Args:
        subjects: names such as "Space Needle"; tokenised alone, without special tokens or a leading space.

    Raises:
        ValueError: if the subjects hold fewer than two tokens together.
    """
    tokens = tuple(token for subject in subjects for token in model.tokenize(subject, special_tokens=False))
    source = f"the embeddings of {len(subjects)} subjects ({len(tokens)} tokens)"
    if not subjects:
        source = f"the embeddings of all {model.d_vocab} tokens of the vocabulary"
    elif len(tokens) < 2:
        raise ValueError(f"the subjects hold {len(tokens)} tokens; give more, or none for the whole vocabulary")
    return NoiseLevel(float(_measured_on(model, tokens).cpu().double().std()), source, tokens)


def corrupt(
    model: LanguageModel, fact: Fact, subject: range, clean: Tensor, config: TraceConfig, level: NoiseLevel
) -> Corruption:
    """The embeddings of the corrupted runs; the same seed gives the same numbers wherever this is called.

    Args:
        fact: its template says where another subject would go.
        subject: token positions of the subject in the prompt.
        clean: [n_subject, d_model], the embedding outputs there.
        level: the spread of the embeddings; "multivariate" and "mean" take the moments of its tokens.

    Raises:
        ValueError: if the corruption changes nothing, or the counterfactual subject does not align with this one.
    """
    clean = clean.detach().float().cpu()
    if config.corruption == "token":
        corruption = _another_subject(model, fact, subject, config.counterfactual)
    elif config.corruption == "zero":
        corruption = Corruption(torch.zeros_like(clean)[None], 0.0, "zeros in place of the subject's embeddings")
    elif config.corruption == "mean":
        mean = _measured_on(model, level.tokens).mean(0).expand_as(clean)
        corruption = Corruption(mean[None].clone(), 0.0, f"the mean of {level.source} in place of each subject token's")
    else:
        noise, std, source = _noise(model, len(subject), config, level)
        # in float32, since half precision would round the sum twice
        corruption = Corruption(clean + noise if config.additive else noise, std, source)
    if torch.equal(corruption.embeddings.to(model.dtype), clean.to(model.dtype).expand_as(corruption.embeddings)):
        raise ValueError(_without_effect(config, corruption.std))
    return corruption


def draw_noise(samples: int, n_subject: int, d_model: int, seed: int) -> Tensor:
    """Unit Gaussian noise, float32 on the CPU, [samples, n_subject, d_model].

    The first S of a larger draw are the draw of size S, so adding samples refines a trace instead of replacing it.
    """
    generator = torch.Generator().manual_seed(seed)
    # One draw per sample: torch fills large tensors in blocks, which would break the prefix property.
    return torch.stack([torch.randn(n_subject, d_model, generator=generator) for _ in range(samples)])


def aligned_ids(model: LanguageModel, fact: Fact, subject: range, other: str) -> list[int]:
    """Token ids of the prompt with `other` as its subject, which differ from the prompt's only at `subject`.

    Raises:
        ValueError: if `other` is empty or the subject itself, has another number of tokens, or changes tokens around
            it; it names the numbers.
    """
    if not other.strip():
        raise ValueError(
            f"the counterfactual is {other!r}; name another subject, of as many tokens as {fact.subject!r}"
        )
    if other == fact.subject:
        raise ValueError(f"the counterfactual {other!r} is the subject itself; name another one")
    ids, others = model.encode(fact.prompt), model.encode(fact.template.replace("{}", other))
    if len(others) != len(ids):
        there = len(subject) + len(others) - len(ids)
        raise ValueError(
            f"the counterfactual {other!r} takes {there} tokens where the subject {fact.subject!r} takes "
            f"{len(subject)}; name one of equal length, or corrupt with noise"
        )
    if others[: subject.start] != ids[: subject.start] or others[subject.stop :] != ids[subject.stop :]:
        raise ValueError(
            f"the counterfactual {other!r} changes tokens around the subject {fact.subject!r}; "
            "name one that leaves the rest of the prompt as it is"
        )
    return others


def _another_subject(model: LanguageModel, fact: Fact, subject: range, other: str) -> Corruption:
    ids = aligned_ids(model, fact, subject, other)[subject.start : subject.stop]
    return Corruption(model.embedding(ids).float().cpu()[None], 0.0, f"the embeddings of {other!r}")


def _noise(model: LanguageModel, n_subject: int, config: TraceConfig, level: NoiseLevel) -> tuple[Tensor, float, str]:
    """([sample, n_subject, d_model], its standard deviation, what it is in words)."""
    if config.corruption == "multivariate":
        table = _measured_on(model, level.tokens)
        noise = _draw_like(table, config.samples, n_subject, config.noise, config.seed)
        std = config.noise * float(table.cpu().double().var(0).mean().sqrt())
        return noise, std, f"Gaussian noise with the mean and {config.noise:g} x the deviations of {level.source}"
    if config.corruption == "uniform":
        width = config.noise * level.sigma
        drawn = _draw_uniform(config.samples, n_subject, model.d_model, config.seed)
        source = f"uniform noise of up to {config.noise:g} x the standard deviation of {level.source}"
        return width * drawn, width / math.sqrt(3), source
    drawn = draw_noise(config.samples, n_subject, model.d_model, config.seed)
    if config.corruption == "gaussian_fixed":
        return config.noise * drawn, config.noise, f"Gaussian noise of standard deviation {config.noise:g}"
    std = config.noise * level.sigma
    return std * drawn, std, f"Gaussian noise of {config.noise:g} x the standard deviation of {level.source}"


def _draw_uniform(samples: int, n_subject: int, d_model: int, seed: int) -> Tensor:
    """[samples, n_subject, d_model], uniform from -1 to 1; sample by sample, as `draw_noise`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.rand(n_subject, d_model, generator=generator) * 2 - 1 for _ in range(samples)])


def _draw_like(table: Tensor, samples: int, n_subject: int, scale: float, seed: int) -> Tensor:
    """[samples, n_subject, d_model], Gaussian with the mean and covariance of the rows of `table` [row, d_model].

    mu + X^T z / sqrt(n - 1), with z ~ N(0, 1) a row and X the centred table, has covariance X^T X / (n - 1): exact,
    and without factoring a d_model x d_model matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = table.mean(0)
    spread = (table - mean) * (scale / math.sqrt(len(table) - 1))
    draws = [torch.randn(n_subject, len(table), generator=generator) @ spread for _ in range(samples)]
    return mean + torch.stack(draws)


def _measured_on(model: LanguageModel, tokens: Sequence[int]) -> Tensor:
    """[row, d_model] float32 on the CPU, the embedding outputs of these tokens, or of the whole vocabulary."""
    # The module's output, not its weight: some families scale their embeddings.
    return model.embedding(list(tokens) or list(range(model.d_vocab))).float().cpu()


def _without_effect(config: TraceConfig, std: float) -> str:
    if config.corruption in ("token", "zero", "mean"):
        return f"the corruption {config.corruption!r} leaves the subject's embeddings as they are; choose another kind"
    return (
        f"noise is {config.noise:g} (standard deviation {std:.3g}) and leaves the subject's embeddings as they are; "
        "choose more noise (usually 3)"
    )
