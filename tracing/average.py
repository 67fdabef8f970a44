"""Average causal effects over facts, by kind of token.  Meng et al. 2022, section 2.2, appendix B.1 (arXiv:2202.05262).

ATE and AIE are means of total and indirect effects over facts the model knows (its argmax is the answer, token by
token); the others are left out and counted.  Rows follow the paper's figure: first, middle and last subject token,
first subsequent token, further tokens, last token.  A one-token subject counts as first and as last, as there; a row a
prompt does not have is missing for that fact.  Differences from the published notebook: each fact weighs the same
however many tokens a row pools, the intervals use the number of facts that have the row, and negative means are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from facts import Fact
from models import LanguageModel, run
from tracing.corruption import NoiseLevel, measure_noise
from tracing.engine import Question
from tracing.statistics import interval, nan_mean
from tracing.tracer import Progress, TraceCancelled, ask, trace_sites
from tracing.types import CATEGORIES, Category, PositionName, TraceConfig, TraceResult, TraceSite


@dataclass(frozen=True, eq=False)
class AverageEffects:
    """Effects of every fact that counted, and their means."""

    configs: tuple[TraceConfig, ...]
    model_name: str
    revision: str
    noise_std: float
    noise_source: str
    n_unknown: int
    """Facts left out because the model does not answer them correctly."""
    clean: NDArray[np.float32]
    """[fact], probability of the answer in the clean run."""
    corrupted: NDArray[np.float32]
    """[fact], its mean over corrupted runs."""
    effects: dict[TraceSite, NDArray[np.float32]]
    """By site: [fact, category, layer], indirect effects; NaN where a prompt has no such token or it was not traced."""

    @property
    def n_facts(self) -> int:
        """Facts that counted."""
        return len(self.clean)

    @property
    def ate(self) -> float:
        """Average total effect: mean of P(clean) - P(corrupted), as a difference of probabilities."""
        return float(np.mean(self.clean - self.corrupted, dtype=np.float64))

    def ate_ci(self) -> tuple[float, float]:
        """95 % t-interval of the average total effect over facts."""
        low, high = interval(self.clean - self.corrupted)
        return float(low), float(high)

    def mean(self, site: TraceSite, category: Category) -> NDArray[np.float64]:
        """[layer], average indirect effect of restoring `site` at tokens of `category`."""
        return nan_mean(self._row(site, category))

    def ci(self, site: TraceSite, category: Category) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([layer], [layer]), 95 % t-interval of `mean` over facts."""
        return interval(self._row(site, category))

    def n(self, site: TraceSite, category: Category) -> int:
        """Facts whose prompt has such a token."""
        return int(np.sum(~np.isnan(self._row(site, category)[:, 0])))

    def last_subject(self, site: TraceSite = "resid_post") -> NDArray[np.float64]:
        """[layer], average indirect effect at the last subject token: the early site."""
        return self.mean(site, "last_subject")

    def last_token(self, site: TraceSite = "resid_post") -> NDArray[np.float64]:
        """[layer], average indirect effect at the prompt's last token: the late site."""
        return self.mean(site, "last_token")

    def to_frame(self) -> pd.DataFrame:
        """One row per site, category and layer: effect, effect_low, effect_high, n."""
        rows = []
        for site in self.effects:
            for category in CATEGORIES:
                mean, (low, high) = self.mean(site, category), self.ci(site, category)
                rows += [
                    (site, category, layer, mean[layer], low[layer], high[layer], self.n(site, category))
                    for layer in range(len(mean))
                ]
        return pd.DataFrame(rows, columns=["site", "category", "layer", "effect", "effect_low", "effect_high", "n"])

    def to_dict(self) -> dict[str, Any]:
        """Means by site and category as plain lists by layer, with n and the average total effect."""
        return {
            "n_facts": self.n_facts,
            "n_unknown": self.n_unknown,
            "noise_std": self.noise_std,
            "ate": self.ate,
            "effects": {
                site: {
                    category: self.mean(site, category).tolist() if self.n(site, category) else None
                    for category in CATEGORIES
                }
                for site in self.effects
            },
        }

    def _row(self, site: TraceSite, category: Category) -> NDArray[np.float32]:
        if site not in self.effects:
            raise ValueError(f"site {site!r} was not traced; choose from {', '.join(self.effects)}")
        if category not in CATEGORIES:
            raise ValueError(f"unknown token category {category!r}; choose from {', '.join(CATEGORIES)}")
        return self.effects[site][:, CATEGORIES.index(category)]


def average_effects(
    model: LanguageModel,
    facts: Iterable[Fact],
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> AverageEffects:
    """Trace every known fact at every site and average.

    Args:
        facts: each needs its true answer.
        level: by default measured on the embeddings of the facts' subjects, as in the paper.
        positions: restrict to e.g. ("last_subject", "last_token"), many times faster; other categories are then NaN.
        progress: told (facts done, facts in all).

    Raises:
        TraceCancelled: when `cancelled` said so, within one forward pass.
        ValueError: if a fact has no answer, or the model knows none of the facts.
    """
    chosen = list(facts)
    for fact in chosen:
        if not fact.target_true.strip():
            raise ValueError(f"the fact {fact.prompt!r} has no true answer; averages need one to tell known facts")
    level = level or measure_noise(model, [fact.subject for fact in chosen])
    traces: list[dict[TraceSite, TraceResult]] = []
    for number, fact in enumerate(chosen, 1):
        if cancelled and cancelled():
            raise TraceCancelled(f"the average was cancelled after {number - 1} of {len(chosen)} facts")
        if knows(model, ask(model, fact)):
            traces.append(trace_sites(model, fact, configs, level=level, positions=positions, cancelled=cancelled))
        if progress:
            progress(number, len(chosen))
    if not traces:
        raise ValueError(f"{model.name} answers none of the {len(chosen)} facts correctly; there is nothing to average")
    effects = {config.site: np.stack([by_category(sites[config.site]) for sites in traces]) for config in configs}
    if positions is not None:  # a one-token subject's only token is also its first: a biased few, so left out
        for effect in effects.values():
            effect[:, [index for index, name in enumerate(CATEGORIES) if name not in positions]] = np.nan
    firsts = [next(iter(sites.values())) for sites in traces]
    return AverageEffects(
        configs=tuple(configs),
        model_name=model.name,
        revision=model.revision,
        noise_std=firsts[0].noise_std,
        noise_source=level.source,
        n_unknown=len(chosen) - len(traces),
        clean=np.array([result.clean for result in firsts], dtype=np.float32),
        corrupted=np.array([result.corrupted.mean() for result in firsts], dtype=np.float32),
        effects=effects,
    )


def knows(model: LanguageModel, question: Question) -> bool:
    """Whether the clean model's argmax is the answer, at each of its tokens given the earlier ones."""
    logits = run(model, torch.tensor([question.ids], device=model.device)).logits[0, question.n_prompt - 1 :]
    return bool(logits.argmax(-1).tolist() == list(question.answer_ids))


def by_category(result: TraceResult) -> NDArray[np.float32]:
    """[category, layer], one trace's indirect effects averaged over the tokens of each category; NaN where none is."""
    effect = result.indirect_effect
    return np.stack([nan_mean(effect[list(group)]) for group in category_positions(result)]).astype(np.float32)


def category_positions(result: TraceResult) -> tuple[range, ...]:
    """The token positions of each category, in the order of `CATEGORIES`; empty where the prompt has none."""
    start, stop = result.subject_span
    last = len(result.tokens) - 1
    return (
        range(start, start + 1),
        range(start + 1, stop - 1),
        range(stop - 1, stop),
        range(stop, min(stop + 1, last)),
        range(stop + 1, last),
        range(last, last + 1),
    )
