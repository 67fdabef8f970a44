"""Locality: does the edit leave other facts alone?

The headline asks only where there is something to lose: neighbour prompts (another subject, same relation, same true
object) that the unedited model answered correctly.  Beside it the neighbourhood score NS of Meng et al. 2022
(arXiv:2202.05262, section 3.2) over all neighbours, the same with the rewritten fact in front (CounterFact+,
arXiv:2305.17553), other facts of the same subject, the divergence of next-token distributions, and perplexity.
"""

from __future__ import annotations

from collections.abc import Sequence

from metrics.asking.scoring import (
    NOT_FINITE,
    comparison_score,
    greedy_score,
    left_out,
    mean_score,
    readable,
    share_score,
    teacher_forced_scores,
    why_none,
)
from metrics.types import PromptRow, Score


def locality(rows: Sequence[PromptRow], seed: int) -> list[Score]:
    """Scores over neighbours and same-subject prompts; perplexity is `metrics.drift.perplexity_score`."""
    plain = [row for row in rows if row.kind == "neighborhood"]
    prefixed = [row for row in rows if row.kind == "neighborhood_prefixed"]
    subject = [row for row in rows if row.kind == "same_subject"]
    other = [row for row in rows if row.kind in ("forgetfulness", "unchanged")]
    noun, noun_prefixed = "neighbour prompts", "neighbour prompts behind the new fact"
    return [
        greedy_score("locality.greedy", plain, noun),
        comparison_score("locality.comparison", readable(plain), noun),
        *teacher_forced_scores("locality", readable(plain), noun, seed),
        greedy_score("locality.same_subject_greedy", subject, "same-subject prompts"),
        greedy_score("locality.other_greedy", other, "other locality prompts"),
        greedy_score("locality.prefixed_greedy", prefixed, noun_prefixed),
        comparison_score("locality.prefixed_comparison", readable(prefixed), noun_prefixed),
        *_moved(readable([*plain, *subject]), seed),
    ]


def _moved(rows: Sequence[PromptRow], seed: int) -> list[Score]:
    """Top-token agreement and divergence; the unedited model agrees with itself, so their values before are 1 and 0."""
    counted = [row for row in rows if row.counted]
    finite = [(0.0, row.kl) for row in counted if row.kl is not None]
    missing = len(counted) - len(finite)
    reason, out = why_none(rows, "locality prompts"), left_out(rows)
    return [
        share_score("locality.same_top", [(True, bool(row.same_top)) for row in counted], reason, out),
        mean_score(
            "locality.kl",
            finite,
            reason or NOT_FINITE,
            (*out, *([(NOT_FINITE, missing)] if missing else [])),
            seed=seed,
        ),
    ]
