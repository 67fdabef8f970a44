"""Portability: does the model use the new fact where it should follow?

Three kinds are scored together and apart: the subject under another name, one stored fact further, and the reverse
question (Yao et al. 2023, arXiv:2305.13172; RippleEdits, Cohen et al. 2023, arXiv:2307.12976).  Other kinds come with
datasets and count in the whole.  A prompt counts only where the unedited model knew the bridge fact: without it, a
failure says nothing about the edit.
"""

from __future__ import annotations

from collections.abc import Sequence

from metrics.asking.scoring import comparison_score, greedy_score, teacher_forced_scores
from metrics.types import PromptRow, Score


def portability(rows: Sequence[PromptRow], seed: int) -> list[Score]:
    """Scores over alias, one-hop and inverse prompts, and those a dataset adds.  The headline pools them all, so that n
    is the number of prompts."""
    alias = [row for row in rows if row.kind == "alias"]
    noun = "portability prompts"
    return [
        greedy_score("portability.greedy", rows, noun),
        greedy_score("portability.alias_greedy", alias, "alias prompts"),
        greedy_score("portability.one_hop_greedy", [r for r in rows if r.kind == "one_hop"], "one-hop prompts"),
        greedy_score("portability.inverse_greedy", [r for r in rows if r.kind == "inverse"], "inverse prompts"),
        comparison_score("portability.comparison", alias, "alias prompts"),
        *teacher_forced_scores("portability", rows, noun, seed),
    ]
