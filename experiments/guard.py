"""Compute an edit, check whether it breaks the model, and roll it back if asked to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editing import Diagnostic, Edit, apply_edits, get_method, make_edit
from editing.applied.view import EditedModel
from editing.preflight import after_computing, before_computing, safer_than
from editing.registry import DEFAULT_METHOD
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from metrics.sequence import text_perplexity
from models import LanguageModel
from models.reference.corpus import sample_texts

GUARD_TEXTS, GUARD_SEED = 20, 7
"""Number and seed of the documents whose perplexity is watched; the second moment's documents have another seed."""
BROKEN = 2.0
"""Factor of perplexity above which an edit is said to break the model."""
UNLIKELY = 0.01
"""Probability of the new answer below which an edit is said to have failed."""


def ordinary_texts(n: int = GUARD_TEXTS) -> list[str]:
    """Documents of the bundled corpus on which perplexity is measured."""
    return sample_texts(n, GUARD_SEED)


def why_broken(diagnostics: Iterable[Diagnostic]) -> tuple[str, ...]:
    """Reasons not to apply an edit without asking, one clause each; empty for a usable edit.

    Args:
        diagnostics: the edit's, with those that `guarded` adds.
    """
    numbers = {diagnostic.name: diagnostic.value for diagnostic in diagnostics}
    why = []
    before, after = (numbers.get(f"perplexity {when}") for when in ("before", "after"))
    if before is not None and after is not None and after > BROKEN * before:
        why.append(f"the perplexity of ordinary text goes from {before:.3g} to {after:.3g} (more than {BROKEN:g} x)")
    answer = numbers.get("p(new) after")
    if answer is not None and answer < UNLIKELY:
        why.append(f"the new answer has a probability of {answer:.2g} (below {UNLIKELY:g})")
    return tuple(why)


@dataclass(frozen=True, eq=False)
class Guarded:
    """An edit with the guard's checks."""

    edit: Edit
    view: EditedModel
    """The model with the edit, or without it if it was rolled back."""
    checks: tuple[Diagnostic, ...]
    rolled_back: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the reader, one sentence each."""
        return tuple(check.warning for check in self.checks if check.warning)


def guarded(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    active: Sequence[Edit] = (),
    guard_texts: Sequence[str] | None = None,
    perplexity_before: float | None = None,
    roll_back: bool = False,
    watch: Watch = UNWATCHED,
) -> Guarded:
    """`make_edit`, then look for signs of collapse.

    Args:
        model: the base, or a view that has edits already.
        active: edits that are in effect besides those in `model`.
        guard_texts: whose perplexity is watched; by default documents of the bundled corpus.
        perplexity_before: of those texts in the model with `active`, if the caller has measured it.
        roll_back: leave the edit out of the view if it breaks the model.

    Raises:
        ValueError: if the method is unknown, a setting out of range, or a request does not fit the model.
        facts.watch.Cancelled: when the watch says so.
    """
    texts = ordinary_texts() if guard_texts is None else guard_texts
    # Only rank-one updates break on a first-token subject.
    early = before_computing(model, requests, method) if get_method(method).family == "locate-then-edit" else ()
    before = model if isinstance(model, EditedModel) and not active else apply_edits(model, active)
    edit = make_edit(before, requests, method, config, watch=watch)
    watch.step(1, 1, "checking ordinary text")
    after = before.with_edit(edit)
    room = after.max_positions
    if perplexity_before is None or room < before.max_positions:
        perplexity_before = text_perplexity(before, texts, room)
    ways = [*(["another layer"] if hasattr(edit.config, "layer") else []), "a weaker setting", safer_than(method)]
    measured = _perplexity_check(ways, perplexity_before, text_perplexity(after, texts, room), bool(texts))
    checks = (*early, *after_computing(before, edit), *measured)
    broken = any(check.warning for check in measured)
    return Guarded(edit, before if broken and roll_back else after, checks, broken and roll_back)


def _perplexity_check(
    ways: Sequence[str], before: float | None, after: float | None, any_text: bool
) -> tuple[Diagnostic, ...]:
    if not any_text or before is None:
        return ()
    ratio = math.inf if after is None else after / before
    warning = ""
    if ratio > BROKEN:
        now = "no finite number" if after is None else f"{after:.3g}"
        warning = (
            f"the perplexity of ordinary text went from {before:.3g} to {now}: the edit breaks the model; undo it, and "
            f"try {', '.join(ways[:-1])}, or {ways[-1]}"
        )
    return (
        Diagnostic("perplexity before", before, "", "Of ordinary text, without this edit."),
        Diagnostic("perplexity after", math.inf if after is None else after, "", "With it.", warning),
    )
