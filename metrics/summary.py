"""Summarise many edits: means over edits, each edit weighing the same, with intervals over edits.

As in Meng et al. 2022 (arXiv:2202.05262, table 4): a record's score is the mean over its prompts, the table's the mean
over records, S the harmonic mean of ES, PS and NS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from metrics import tables
from metrics.definitions import DEFINITIONS
from metrics.report import EditReport
from metrics.statistics import bootstrap, harmonic_mean, paired_bootstrap
from metrics.types import Definition, SummaryScore, Way

SHORT_NAMES = {
    "es": "reliability.comparison",
    "ps": "generalization.comparison",
    "ns": "locality.comparison",
    "es_greedy": "reliability.greedy",
    "ps_greedy": "generalization.greedy",
    "ns_greedy": "locality.greedy",
}
"""Short names of the scores in papers' tables, and of their free-running forms."""


@dataclass(frozen=True)
class Summary:
    """All scores over many edits, measured in one way."""

    scores: tuple[SummaryScore, ...]
    n_edits: int
    way: Way

    @property
    def protocol(self) -> str:
        """Id of the protocol."""
        return self.way.protocol

    def __getitem__(self, name: str) -> SummaryScore:
        """A score by its name ("locality.greedy") or the field's short one ("ns").

        Raises:
            KeyError: if there is no such score.
        """
        wanted = SHORT_NAMES.get(name, name)
        for score in self.scores:
            if score.name == wanted:
                return score
        names = [score.name for score in self.scores]
        short = [key for key, long in SHORT_NAMES.items() if long in names]
        raise KeyError(f"unknown score {name!r}; choose from {', '.join([*short, *names])}")

    def short(self) -> dict[str, float | None]:
        """es, ps, ns, es_greedy, ps_greedy, ns_greedy as fractions; None where not measured."""
        return {name: self[name].value for name in SHORT_NAMES}

    @property
    def harmonic(self) -> float | None:
        """S: harmonic mean of ES, PS and NS; None if one of them was not measured."""
        values = [self[name].value for name in ("es", "ps", "ns")]
        measured = [value for value in values if value is not None]
        return harmonic_mean(measured) if len(measured) == len(values) else None

    def to_frame(self) -> pd.DataFrame:
        """One line per score, each with its protocol, model, weights and seed; missing numbers are None."""
        return pd.DataFrame([self._record(score) for score in self.scores], dtype=object)

    def to_markdown(self) -> str:
        """The scores as a Markdown table under a line that says how they were measured."""
        return tables.summary_markdown(self.scores, self.caption)

    def to_latex(self) -> str:
        """A booktabs table; needs `\\usepackage{booktabs}`."""
        return tables.summary_latex(self.scores, self.caption)

    @property
    def caption(self) -> str:
        """How and on what the numbers were measured."""
        way = self.way
        return (
            f"{self.n_edits} edits; model {way.model} ({way.revision[:12]}); protocol {way.protocol}, seed {way.seed}; "
            "intervals over edits"
        )

    def _record(self, score: SummaryScore) -> dict[str, Any]:
        record = {**asdict(score), "change": score.change}
        record |= record.pop("way")
        (record["ci_low"], record["ci_high"]) = record.pop("ci") or (None, None)
        (record["change_ci_low"], record["change_ci_high"]) = record.pop("change_ci") or (None, None)
        return record


def aggregate(reports: Sequence[EditReport], *, seed: int = 0) -> Summary:
    """The mean over edits of every score.

    Raises:
        ValueError: if there are no reports, or they were measured by different protocols, settings or models.
    """
    if not reports:
        raise ValueError("there are no reports to summarise; give at least one")
    require_one_way(
        protocols=(report.protocol for report in reports),
        settings=(report.settings.way for report in reports),
        models=(report.model_revision for report in reports),
    )
    way = Way(reports[0].protocol, reports[0].model_name, reports[0].model_revision, seed)
    return Summary(tuple(_over_edits(name, reports, way) for name in DEFINITIONS), len(reports), way)


def require_one_way(**ways: Iterable[str]) -> None:
    """Check that numbers were measured in one way before averaging them.

    Args:
        ways: name of a setting -> its value for each number.

    Raises:
        ValueError: if one of them has more than one value.
    """
    for what, values in ways.items():
        distinct = set(values)
        if len(distinct) > 1:
            raise ValueError(
                f"the reports were made with different {what}: {', '.join(sorted(distinct))}; "
                "numbers measured in different ways have no common mean, so summarise them apart"
            )


def _over_edits(name: str, reports: Sequence[EditReport], way: Way) -> SummaryScore:
    scores = [report.score(name) for report in reports]
    return mean_over(name, DEFINITIONS[name], [(score.before, score.value, score.n) for score in scores], way)


def mean_over(
    name: str, definition: Definition, values: Sequence[tuple[float | None, float | None, int]], way: Way
) -> SummaryScore:
    """The mean over edits, each given as (before, after, number of prompts); None if not measured."""
    after = [value for _, value, _ in values if value is not None]
    pairs = [(before, value) for before, value, _ in values if before is not None and value is not None]
    befores, afters = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    complete = len(pairs) == len(after)  # both means must be over the same edits
    return SummaryScore(
        name=name,
        label=definition.label,
        value=math.fsum(after) / len(after) if after else None,
        before=float(np.mean(befores)) if befores and complete else None,
        n=len(after),
        n_prompts=sum(n for _, value, n in values if value is not None),
        n_left_out=len(values) - len(after),
        ci=bootstrap(after, seed=way.seed) if after else None,
        change_ci=paired_bootstrap(befores, afters, seed=way.seed) if befores and complete else None,
        unit=definition.unit,
        higher_is_better=definition.higher_is_better,
        way=way,
    )
