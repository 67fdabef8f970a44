"""Reliability: does the edited model give the new answer to the edit prompt?

The greedy match is the headline; beside it what Meng et al. 2022 (arXiv:2202.05262, section 3.2) call efficacy,
P(new) > P(true), and the token accuracy of EasyEdit's `rewrite_acc`.
"""

from __future__ import annotations

from collections.abc import Sequence

from metrics.asking.scoring import comparison_score, greedy_score, teacher_forced_scores
from metrics.types import PromptRow, Score


def reliability(rows: Sequence[PromptRow], seed: int) -> list[Score]:
    """Scores over the edit prompt."""
    noun = "edit prompts"
    return [
        greedy_score("reliability.greedy", rows, noun),
        comparison_score("reliability.comparison", rows, noun),
        *teacher_forced_scores("reliability", rows, noun, seed),
    ]
