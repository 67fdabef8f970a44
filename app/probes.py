"""From the fields of the form to a fact, a request and its probes.  Without torch: used before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from facts import EditRequest, Fact, Probe
from facts.atlas import load_atlas
from facts.probes import edit_request
from facts.types import MeasuredKind

Row = tuple[str, str, str]
"""(kind, prompt, expected answer), as edited on the page."""

KINDS: tuple[str, ...] = get_args(MeasuredKind)


def find_fact(prompt: str, subject: str, answer: str = "", occurrence: int = 0) -> Fact:
    """The fact of a prompt; the atlas supplies relation and true answer if it holds exactly these words.

    Args:
        occurrence: which occurrence of the subject in the prompt is meant, counted from 0 (`facts.words.occurrences`).

    Raises:
        ValueError: if the prompt is empty or does not hold the subject.
    """
    fact = load_atlas().match(prompt, subject) if prompt and subject and not occurrence else None
    if fact is not None and answer in ("", fact.target_true):
        return fact
    return Fact.from_prompt(prompt, subject, answer, occurrence=occurrence)


def make_request(fact: Fact, target_new: str) -> EditRequest:
    """The request to rewrite a fact, with the probes the atlas derives; without probes if it lacks the fact.

    Raises:
        ValueError: if the new answer is empty or equals the true one.
    """
    atlas = load_atlas()
    if fact.relation and atlas.find(fact.subject, fact.relation) is not None:
        return edit_request(atlas, fact, target_new)
    return EditRequest(fact, target_new, generation_prompts=(fact.prompt,))


def rows_of(request: EditRequest) -> tuple[Row, ...]:
    """The probes as rows to edit."""
    return tuple((probe.kind, probe.prompt, probe.answer) for probe in request.probes)


def probes_of(rows: Sequence[Row], derived: Sequence[Probe]) -> tuple[Probe, ...]:
    """The rows as probes; one that the atlas derived keeps the bridge facts it depends on."""
    by_row = {(probe.kind, probe.prompt, probe.answer): probe for probe in derived}
    return tuple(
        by_row.get((kind, prompt, answer)) or Probe(kind, prompt, answer)  # type: ignore[arg-type]
        for kind, prompt, answer in rows
    )


def usable(records: Sequence[dict[str, object]]) -> tuple[Row, ...]:
    """The complete rows of the editor; incomplete rows are still being typed."""
    rows = []
    for record in records:
        kind, prompt, answer = (str(record.get(name) or "").strip() for name in ("kind", "prompt", "answer"))
        if kind in KINDS and prompt and answer:
            rows.append((kind, prompt, answer))
    return tuple(rows)
