"""The result of an evaluation: every score, every prompt's row, and the settings that reproduce them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from facts import EditRequest
from facts.records import as_lists
from facts.spreadsheet import defused
from metrics import tables
from metrics.asking.generation import first_sentence
from metrics.definitions import METRICS
from metrics.types import PROTOCOL, Efficiency, PromptRow, Reading, Score, Settings, TextPair


@dataclass(frozen=True)
class EditReport:
    """The metrics of one edit."""

    request: EditRequest
    scores: tuple[Score, ...]
    rows: tuple[PromptRow, ...]
    efficiency: Efficiency
    settings: Settings
    model_name: str
    model_revision: str
    texts: tuple[TextPair, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str | int | float] = field(default_factory=dict)
    """Notes of the caller, such as method and layer."""
    protocol: str = PROTOCOL

    @property
    def seed(self) -> int:
        """Of the bootstrap; everything else is deterministic."""
        return self.settings.seed

    def score(self, name: str) -> Score:
        """One score by its name, such as "locality.greedy".

        Raises:
            ValueError: if there is no such score.
        """
        for score in self.scores:
            if score.name == name:
                return score
        raise ValueError(f"unknown score {name!r}; choose from {', '.join(score.name for score in self.scores)}")

    def headline(self, metric: str) -> Score:
        """The score shown first for a metric.

        Raises:
            ValueError: if there is no such metric.
        """
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(METRICS)}")
        return self.score(f"{metric}.{METRICS[metric].headline}")

    def of(self, metric: str) -> tuple[Score, ...]:
        """Every score of one metric, the headline first."""
        return tuple(score for score in self.scores if score.metric == metric)

    def rows_of(self, metric: str) -> tuple[PromptRow, ...]:
        """Every prompt of one metric."""
        return tuple(row for row in self.rows if row.metric == metric)

    def to_frame(self) -> pd.DataFrame:
        """One line per prompt; missing numbers are None."""
        return pd.DataFrame(
            [_row_record(row) for row in self.rows], columns=list(_row_record(_EMPTY_ROW)), dtype=object
        )

    def summary_frame(self) -> pd.DataFrame:
        """One line per score, each with its protocol, model, weights and seed; missing numbers are None."""
        return pd.DataFrame([self._score_record(score) for score in self.scores], dtype=object)

    def to_csv(self) -> str:
        """The per-prompt table, with model and protocol in every line; `summary_frame().to_csv()` gives the scores."""
        frame = self.to_frame()
        for position, (name, value) in enumerate(self._identity().items()):
            frame.insert(position, name, value)
        return str(frame.map(defused).to_csv(index=False, lineterminator="\n"))

    def to_json(self) -> str:
        """The whole report as one JSON object; numbers that are not finite or not measured are null."""
        record = {
            **self._identity(),
            "versions": dict(self.versions),
            "about": dict(self.about),
            "settings": asdict(self.settings),
            "request": asdict(self.request),
            "scores": [self._score_record(score) for score in self.scores],
            "efficiency": asdict(self.efficiency),
            "prompts": [_row_record(row) for row in self.rows],
            "texts": [asdict(text) for text in self.texts],
        }
        return json.dumps(as_lists(record), ensure_ascii=False, indent=2, allow_nan=False)

    def to_latex(self) -> str:
        """A booktabs table of all scores; needs `\\usepackage{booktabs}`."""
        return tables.latex(self.scores, self._caption())

    def to_markdown(self) -> str:
        """The scores as a Markdown table under a line that says what was measured."""
        return tables.markdown(self.scores, self._caption())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """How a notebook shows the report: the five headlines; `summary_frame()` has every score."""
        headlines = [self.headline(metric) for metric in METRICS]
        shown = tables.markdown(headlines, self._caption())
        return {"text/plain": shown, "text/markdown": shown, "text/html": tables.html(headlines, self._caption())}

    def _identity(self) -> dict[str, str | int]:
        return {
            "protocol": self.protocol,
            "model": self.model_name,
            "revision": self.model_revision,
            "seed": self.seed,
        }

    def _score_record(self, score: Score) -> dict[str, Any]:
        return {**_score_record(score), **self._identity(), "protocol": score.protocol}

    def _caption(self) -> str:
        words = [
            f"{self.request.fact.prompt} … {self.request.fact.target_true or '?'} → {self.request.target_new}",
            f"model {self.model_name} ({self.model_revision[:12]})",
            *(f"{name} {value}" for name, value in self.about.items()),
            f"protocol {self.protocol}, seed {self.seed}",
        ]
        return "; ".join(words)


def _score_record(score: Score) -> dict[str, Any]:
    low, high = score.ci or (None, None)
    before_low, before_high = score.before_ci or (None, None)
    change_low, change_high = score.change_ci or (None, None)
    return {
        "name": score.name,
        "metric": score.metric,
        "label": score.label,
        "headline": METRICS[score.metric].headline == score.name.partition(".")[2],
        "before": score.before,
        "after": score.value,
        "change": score.change,
        "n": score.n,
        "ci_low": low,
        "ci_high": high,
        "before_ci_low": before_low,
        "before_ci_high": before_high,
        "change_ci_low": change_low,
        "change_ci_high": change_high,
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "scorer": score.scorer,
        "protocol": score.protocol,
        "left_out": "; ".join(f"{count}: {reason}" for reason, count in score.left_out),
        "not_measured": score.reason,
        "definition": score.definition,
    }


_EMPTY_ROW = PromptRow("reliability", "edit", "", "", None, None, None, counted=False)


def _row_record(row: PromptRow) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "kind": row.kind,
        "prompt": row.prompt,
        "answer": row.answer,
        "other": row.other,
        "counted": row.counted,
        "reason": row.reason,
        **_reading_record(row.before, "before"),
        **_reading_record(row.after, "after"),
        "kl_nats": row.kl,
        "same_top": row.same_top,
    }


def _reading_record(reading: Reading | None, when: str) -> dict[str, Any]:
    return {
        f"text_{when}": first_sentence(reading.continuation).strip() if reading else None,
        f"match_{when}": reading.match if reading else None,
        f"p_answer_{when}": reading.p_answer if reading else None,
        f"p_other_{when}": reading.p_other if reading else None,
        f"nll_answer_{when}": reading.nll_answer if reading else None,
        f"nll_other_{when}": reading.nll_other if reading else None,
        f"token_accuracy_{when}": reading.token_accuracy if reading else None,
        f"rank_{when}": reading.rank if reading else None,
    }
