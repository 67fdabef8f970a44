"""Engram's own protocol: free-running answers.  Definitions: `metrics.definitions`.

The numbers are those of `metrics.evaluate`, computed by the same functions from the same prompts.  Perplexity and
efficiency are not about prompts and only part of `metrics.evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from facts import Case
from metrics.asking.groups import tests
from metrics.asking.prompts import items_of_case
from metrics.asking.readings import Observation, Plan, plan, rows_of
from metrics.definitions import DEFINITIONS, METRICS, PROMPTED
from metrics.protocols.base import Material, Protocol, Value
from metrics.protocols.readings import Needs, Readings
from metrics.types import PROTOCOL as ID
from metrics.types import Evidence, Settings

if TYPE_CHECKING:
    from models import LanguageModel

NOT_ABOUT_PROMPTS = "locality.perplexity"


@dataclass(frozen=True)
class EngramTask:
    """See the module."""

    case: Case
    settings: Settings
    to_run: Plan
    """Every prompt of the case, and which of them fit the model."""

    @property
    def needs(self) -> Needs:
        """Continuations and scored answers."""
        run = self.to_run
        return Needs(answers=run.answers, distributions=run.distributions, said=run.prompts(with_bridges=False))

    @property
    def base_needs(self) -> Needs:
        """The same, and the bridge facts."""
        return self.needs | Needs(said=self.to_run.prompts(with_bridges=True))

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number."""
        seen = [Observation(dict(readings.said), readings.answers) for readings in (before, after)]
        targets = [request.target_new for request in self.case.requests]
        rows = rows_of(self.to_run, seen[0], seen[1], self.settings, targets)
        evidence = Evidence(tests(rows, self.to_run.items), self.settings.seed)
        return {
            score.name: Value(score.before, score.value, score.n, score.left_out, score.reason)
            for metric in PROMPTED
            for score in METRICS[metric].scores(evidence)
            if score.name in PROTOCOL.definitions
        }


def _prepare(model: LanguageModel, case: Case, material: Material) -> EngramTask:
    return EngramTask(case, material.settings, plan(model, items_of_case(case, material.settings), material.settings))


PROTOCOL = Protocol(
    id=ID,
    title="Engram",
    source="docs/metrics.md",
    definitions={
        name: definition
        for name, definition in DEFINITIONS.items()
        if name.partition(".")[0] in PROMPTED and name != NOT_ABOUT_PROMPTS
    },
    headlines={metric: f"{metric}.{METRICS[metric].headline}" for metric in PROMPTED},
    prepare=_prepare,
)
