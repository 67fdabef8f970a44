"""Generalization: does the edited model give the new answer to the same question in other words?

Paraphrases as given are the headline.  The same paraphrases after an unrelated sentence are scored apart: CounterFact's
own paraphrases carry such prefixes (Meng et al. 2022, arXiv:2202.05262, appendix D), so its PS is the nearer to those.
"""

from __future__ import annotations

from collections.abc import Sequence

from metrics.asking.scoring import comparison_score, greedy_score, teacher_forced_scores
from metrics.types import PromptRow, Score


def generalization(rows: Sequence[PromptRow], seed: int) -> list[Score]:
    """Scores over the paraphrases, plain and prefixed."""
    plain = [row for row in rows if row.kind == "paraphrase"]
    prefixed = [row for row in rows if row.kind == "paraphrase_prefixed"]
    noun, noun_prefixed = "paraphrases", "paraphrases behind an unrelated sentence"
    return [
        greedy_score("generalization.greedy", plain, noun),
        comparison_score("generalization.comparison", plain, noun),
        *teacher_forced_scores("generalization", plain, noun, seed),
        greedy_score("generalization.prefixed_greedy", prefixed, noun_prefixed),
        comparison_score("generalization.prefixed_comparison", prefixed, noun_prefixed),
    ]
