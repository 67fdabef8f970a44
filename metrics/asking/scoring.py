"""From prompts' readings to numbers with their intervals: one function for each kind of statistic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from metrics.statistics import Statistic, bootstrap, mean, median, paired_bootstrap, paired_share_change, wilson
from metrics.types import Measured, PromptRow, Reading

NO_OTHER = "there is no second answer to compare with"
NOT_FINITE = "a model gave no finite probability"

Pair = tuple[float, float] | tuple[tuple[float, float], tuple[float, float]]
"""(before, after) of one prompt; perplexity has (summed nll, tokens) for each."""


def share(pairs: Sequence[tuple[bool, bool]], reason: str = "", left_out: Sequence[tuple[str, int]] = ()) -> Measured:
    """Share of prompts: Wilson interval for each model, Newcombe's paired interval for the change."""
    if not pairs:
        return not_measured(reason, left_out)
    before, after, n = [pair[0] for pair in pairs], [pair[1] for pair in pairs], len(pairs)
    return Measured(
        value=sum(after) / n,
        before=sum(before) / n,
        n=n,
        ci=wilson(sum(after), n),
        before_ci=wilson(sum(before), n),
        change_ci=paired_share_change(before, after),
        left_out=tuple(left_out),
    )


def average(
    pairs: Sequence[Pair],
    reason: str = "",
    left_out: Sequence[tuple[str, int]] = (),
    *,
    seed: int,
    statistic: Statistic = mean,
) -> Measured:
    """Mean or another statistic over prompts, with bootstrap intervals."""
    if not pairs:
        return not_measured(reason, left_out)
    before, after = np.asarray([pair[0] for pair in pairs], float), np.asarray([pair[1] for pair in pairs], float)
    return Measured(
        value=float(statistic(after)),
        before=float(statistic(before)),
        n=len(pairs),
        ci=bootstrap(after, statistic, seed=seed),
        before_ci=bootstrap(before, statistic, seed=seed),
        change_ci=paired_bootstrap(before, after, statistic, seed=seed),
        left_out=tuple(left_out),
    )


def not_measured(reason: str, left_out: Sequence[tuple[str, int]] = ()) -> Measured:
    """A missing value with its reason."""
    return Measured(None, n=0, left_out=tuple(left_out), reason=reason)


def left_out(rows: Iterable[PromptRow]) -> tuple[tuple[str, int], ...]:
    """The reasons for which rows do not count, most frequent first."""
    return tuple(Counter(row.reason for row in rows if not row.counted).most_common())


def why_none(rows: Sequence[PromptRow], noun: str) -> str:
    """Why no row counts; empty if one does."""
    if not rows:
        return f"no {noun} were given"
    if any(row.counted for row in rows):
        return ""
    return "; ".join(f"{count} of {len(rows)} {noun} left out: {reason}" for reason, count in left_out(rows))


def pairs_of(rows: Iterable[PromptRow], read: Callable[[Reading], float | None]) -> list[Pair]:
    """(before, after) of every counted row on which both models gave a number."""
    pairs: list[Pair] = []
    for row in rows:
        if not row.counted or row.before is None or row.after is None:
            continue
        before, after = read(row.before), read(row.after)
        if before is not None and after is not None:
            pairs.append((before, after))
    return pairs


def greedy(rows: Sequence[PromptRow], noun: str) -> Measured:
    """Share of the counted rows whose continuation gives the answer."""
    pairs = [(row.before.match, row.after.match) for row in rows if row.counted and row.before and row.after]
    return share(pairs, why_none(rows, noun), left_out(rows))


def comparison(rows: Sequence[PromptRow], noun: str) -> Measured:
    """Share of the counted rows with a second answer on which the right one is more probable per token."""
    compared = [row for row in rows if row.other is not None]
    pairs = [
        (row.before.prefers_answer, row.after.prefers_answer)
        for row in compared
        if row.counted and row.before and row.after
    ]
    reason = why_none(compared, noun) if compared or not rows else NO_OTHER
    return share(pairs, reason, left_out(compared))


READS: dict[str, tuple[Callable[[Reading], float | None], Statistic]] = {
    "token_accuracy": (lambda reading: reading.token_accuracy, mean),
    "rank": (lambda reading: reading.rank, median),
    "p_answer": (lambda reading: reading.p_answer, mean),
    "p_other": (lambda reading: reading.p_other, mean),
}
"""Teacher-forced scores by key: what is read at a prompt, and the statistic over prompts."""


def teacher_forced(
    rows: Sequence[PromptRow], noun: str, seed: int, keys: Iterable[str] = tuple(READS)
) -> dict[str, Measured]:
    """Token accuracy, first-token rank, P(answer) and P(other) over the counted rows."""
    scores = {}
    for key in keys:
        read, statistic = READS[key]
        read_at = [row for row in rows if key != "p_other" or row.other is not None]
        pairs = pairs_of(read_at, read)
        missing = sum(row.counted for row in read_at) - len(pairs)
        out = (*left_out(read_at), *([(NOT_FINITE, missing)] if missing else []))
        reason = NO_OTHER if rows and not read_at else why_none(read_at, noun) or NOT_FINITE
        scores[key] = average(pairs, reason, out, seed=seed, statistic=statistic)
    return scores


def readable(rows: Iterable[PromptRow]) -> list[PromptRow]:
    """The rows, with all that have readings counted, for scores that do not depend on what the unedited model knew."""
    return [replace(row, counted=row.before is not None and row.after is not None) for row in rows]
