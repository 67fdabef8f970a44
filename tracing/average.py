"""Average causal effects over facts, by kind of token.  Meng et al. 2022, section 2.2, appendix B.1 (arXiv:2202.05262).

ATE and AIE are means of total and indirect effects over facts the model knows (its argmax is the answer, token by
token); the others are left out and counted.  Rows follow the paper's figure: first, middle and last subject token,
first subsequent token, further tokens, last token.  A one-token subject counts as first and as last, as there; a row a
prompt does not have is missing for that fact.  Differences from the published notebook: each fact weighs the same
however many tokens a row pools, the intervals use the number of facts that have the row, and negative means are kept.
A mean says little about any one fact (Hase et al. 2023, arXiv:2301.04213), so every fact's effects are kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tracing.config import TraceConfig
from tracing.statistics import FEWEST, Correction, interval, nan_mean, significant
from tracing.storage import Stored
from tracing.types import CATEGORIES, Category, TraceResult

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class AverageEffects(Stored):
    """Effects of every fact that counted, and their means."""

    KIND: ClassVar[str] = "engram-average-1"
    NESTED: ClassVar[dict[str, type]] = {"configs": TraceConfig}

    configs: tuple[TraceConfig, ...]
    model_name: str
    revision: str
    noise_std: float
    noise_source: str
    """What was done to the subjects' embeddings, in words."""
    prompts: tuple[str, ...]
    """[fact], those that counted."""
    unknown: tuple[str, ...]
    """Prompts left out because the model does not answer them correctly."""
    unaligned: tuple[str, ...]
    """Prompts left out because no counterfactual subject aligns with the prompt's."""
    clean: NDArray[np.float32]
    """[fact], probability of the answer in the clean run."""
    corrupted: NDArray[np.float32]
    """[fact], its mean over corrupted runs."""
    effects: dict[str, NDArray[np.float32]]
    """By map (`map_name`): [fact, category, layer], with a head axis behind it for attn_heads; indirect effects, NaN
    where a prompt has no such token or it was not traced."""

    @property
    def n_facts(self) -> int:
        """Facts that counted."""
        return len(self.clean)

    @property
    def n_unknown(self) -> int:
        """Facts left out because the model does not answer them correctly."""
        return len(self.unknown)

    @property
    def ate(self) -> float:
        """Average total effect: mean of P(clean) - P(corrupted), as a difference of probabilities."""
        return float(np.mean(self.clean - self.corrupted, dtype=np.float64))

    def ate_ci(self) -> tuple[float, float]:
        """95 % t-interval of the average total effect over facts."""
        low, high = interval(self.clean - self.corrupted)
        return float(low), float(high)

    def mean(self, site: str, category: Category) -> NDArray[np.float64]:
        """[layer], average indirect effect of restoring `site` at tokens of `category`."""
        return nan_mean(self.values(site, category))

    def ci(self, site: str, category: Category) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([layer], [layer]), 95 % t-interval of `mean` over facts."""
        return interval(self.values(site, category))

    def quantiles(self, site: str, category: Category, levels: Sequence[float] = QUANTILES) -> NDArray[np.float64]:
        """[level, layer], quantiles of the effect over facts."""
        values = self.values(site, category).astype(np.float64)
        present = values[~np.isnan(values).reshape(len(values), -1).any(1)]
        if not len(present):
            return np.full((len(levels), *values.shape[1:]), np.nan)
        return np.asarray(np.quantile(present, levels, axis=0))

    def significant(self, site: str, *, alpha: float = 0.05, correction: Correction = "holm") -> NDArray[np.bool_]:
        """[category, layer], where the mean differs from 0: a paired t-test over facts, corrected over all cells."""
        return significant(self._map(site), alpha=alpha, correction=correction)

    def uncertain(self, site: str) -> NDArray[np.bool_]:
        """[category, layer], where the 95 % interval of the mean over facts includes 0; nowhere for one fact."""
        low, high = interval(self._map(site))
        return np.asarray((low <= 0) & (high >= 0))

    def peaks(self, site: str, category: Category = "last_subject") -> NDArray[np.int64]:
        """[layer], how many facts have their largest effect there; facts without such a token do not count."""
        values = self.values(site, category).reshape(self.n_facts, self.effects[site].shape[2], -1).max(2)
        present = values[~np.isnan(values).any(1)]
        return np.bincount(present.argmax(1), minlength=values.shape[1]).astype(np.int64)

    def n(self, site: str, category: Category) -> int:
        """Facts whose prompt has such a token."""
        values = self.values(site, category)
        return int(np.sum(~np.isnan(values.reshape(len(values), -1)[:, 0])))

    def last_subject(self, site: str = "resid_post") -> NDArray[np.float64]:
        """[layer], average indirect effect at the last subject token: the early site."""
        return self.mean(site, "last_subject")

    def last_token(self, site: str = "resid_post") -> NDArray[np.float64]:
        """[layer], average indirect effect at the prompt's last token: the late site."""
        return self.mean(site, "last_token")

    def values(self, site: str, category: Category) -> NDArray[np.float32]:
        """[fact, layer], every fact's effect.

        Raises:
            ValueError: if the site was not traced or there is no such category.
        """
        if category not in CATEGORIES:
            raise ValueError(f"unknown token category {category!r}; choose from {', '.join(CATEGORIES)}")
        return self._map(site)[:, CATEGORIES.index(category)]

    def to_frame(self) -> pd.DataFrame:
        """One row per map, category, layer (and head): effect, its interval, n, quantiles, significant (Holm)."""
        frames = []
        for site, effects in self.effects.items():
            marked = self.significant(site)
            for index, category in enumerate(CATEGORIES):
                cells = [axis.ravel() for axis in np.indices(effects.shape[2:])]
                mean, (low, high) = self.mean(site, category), self.ci(site, category)
                columns: dict[str, Any] = {"site": site, "category": category, "layer": cells[0]}
                if len(cells) == 2:
                    columns["head"] = cells[1]
                columns |= {"effect": mean.ravel(), "effect_low": low.ravel(), "effect_high": high.ravel()}
                columns["n"] = self.n(site, category)
                for level, row in zip(QUANTILES, self.quantiles(site, category), strict=True):
                    columns[f"q{round(100 * level):02d}"] = row.ravel()
                frames.append(pd.DataFrame(columns | {"significant": marked[index].ravel()}))
        return pd.concat(frames, ignore_index=True)

    def per_fact(self) -> pd.DataFrame:
        """One row per fact, map, category, layer (and head) that was measured: prompt, clean, corrupted, effect."""
        frames = []
        for site, effects in self.effects.items():
            fact, category, *rest = (axis.ravel() for axis in np.indices(effects.shape))
            columns: dict[str, Any] = {"prompt": [self.prompts[index] for index in fact], "site": site}
            columns |= {"category": [CATEGORIES[index] for index in category]}
            columns |= dict(zip(("layer", "head"), rest, strict=False))
            columns |= {"clean": self.clean[fact], "corrupted": self.corrupted[fact], "effect": effects.ravel()}
            frames.append(pd.DataFrame(columns))
        frame = pd.concat(frames, ignore_index=True)
        return frame[frame["effect"].notna()].reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """Means by map and category as plain lists by layer, with n and the average total effect."""
        low, high = self.ate_ci()
        return {
            "kind": self.KIND,
            "model_name": self.model_name,
            "revision": self.revision,
            "configs": [asdict(config) for config in self.configs],
            "n_facts": self.n_facts,
            "n_unknown": self.n_unknown,
            "n_unaligned": len(self.unaligned),
            "noise_std": self.noise_std,
            "noise_source": self.noise_source,
            "ate": self.ate,
            "ate_ci": [low, high] if self.n_facts >= FEWEST else None,
            "effects": {
                site: {
                    category: self.mean(site, category).tolist() if self.n(site, category) else None
                    for category in CATEGORIES
                }
                for site in self.effects
            },
        }

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """How a notebook shows the averages.  By name, since the figures import this module."""
        bundle: dict[str, str] = import_module("tracing.plots.inline").average_bundle(self)
        return bundle

    def _map(self, site: str) -> NDArray[np.float32]:
        if site not in self.effects:
            raise ValueError(f"site {site!r} was not traced; choose from {', '.join(self.effects)}")
        return self.effects[site]


def map_name(config: TraceConfig) -> str:
    """The name of a map: its site, and the severed module if there is one."""
    return config.site if config.severed is None else f"{config.site}, {config.severed} severed"


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


def not_positions(categories: Iterable[Category]) -> list[int]:
    """Indices of the other categories."""
    kept = set(categories)
    return [index for index, name in enumerate(CATEGORIES) if name not in kept]
