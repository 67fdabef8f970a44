"""Two branches of a ledger side by side: what they say, and how the same requests score on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from editing.ledger import Comparison, Ledger
from facts import EditRequest
from metrics import METRICS, EditReport, Summary, aggregate
from metrics import evaluate as score

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class BranchReports:
    """Reports of one set of requests on two branches, against the same unedited model."""

    names: tuple[str, str]
    comparison: Comparison
    first: tuple[EditReport, ...]
    """One for each request."""
    second: tuple[EditReport, ...]

    @property
    def summaries(self) -> tuple[Summary, Summary] | None:
        """Means over the requests; None without requests."""
        return (aggregate(self.first), aggregate(self.second)) if self.first else None

    def to_frame(self) -> pd.DataFrame:
        """One line for each headline: metric, unedited, one column a branch, and their difference (second - first)."""
        rows = []
        for metric in METRICS:
            pairs = [(a.headline(metric), b.headline(metric)) for a, b in zip(self.first, self.second, strict=True)]
            known = [(a.before, a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
            if not known:
                continue
            before = [value for value, _, _ in known if value is not None]
            ours, theirs = (sum(row[column] for row in known) / len(known) for column in (1, 2))  # type: ignore[misc]
            rows.append(
                {
                    "metric": METRICS[metric].label,
                    "unedited": sum(before) / len(before) if before else None,
                    self.names[0]: ours,
                    self.names[1]: theirs,
                    "difference": theirs - ours,
                    "n": len(known),
                }
            )
        return pd.DataFrame(rows)


def compare_branches(
    ledger: Ledger,
    first: str,
    second: str,
    requests: Sequence[EditRequest] | None = None,
    *,
    guard_texts: Sequence[str] = (),
    max_new_tokens: int = 16,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> BranchReports:
    """Evaluate the same requests on two branches.

    Args:
        requests: by default those of every edit on either branch.
        guard_texts: neutral texts for the perplexity guard.
        progress: called with (requests done, requests in all), both branches counted.

    Raises:
        ValueError: if a branch does not exist, both are the same, or a prompt does not fit.
        metrics.EvaluationCancelled: when `cancelled` said so.
    """
    if first == second:
        raise ValueError(f"{first!r} was given twice; name two branches of {', '.join(ledger.branches)}")
    edits = dict.fromkeys((*ledger.edits(first), *ledger.edits(second)))
    asked = (
        list(dict.fromkeys(request for edit in edits for request in edit.requests)) if requests is None else requests
    )
    comparison = ledger.compare(first, second, [request.fact.prompt for request in asked], max_new_tokens)
    reports: dict[str, list[EditReport]] = {first: [], second: []}
    for name in (first, second):
        view = ledger.view(name)
        for request in asked:
            about: dict[str, str | int | float] = {"branch": name, "edits": len(view.edits)}
            reports[name].append(
                score(ledger.model, view, request, guard_texts=guard_texts, about=about, cancelled=cancelled)
            )
            if progress is not None:
                progress(sum(map(len, reports.values())), 2 * len(asked))
    return BranchReports((first, second), comparison, tuple(reports[first]), tuple(reports[second]))
