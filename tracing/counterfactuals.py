"""Subjects that can replace a prompt's: same relation, another answer, same number of tokens.

Symmetric token replacement (Zhang & Nanda 2023, arXiv:2309.16042) corrupts a prompt with another subject
instead of noise, which keeps the model on texts it knows; it needs a subject that aligns with the original's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from facts import Fact
from facts.atlas import Atlas, load_atlas
from models import LanguageModel, subject_span
from tracing.corruption import aligned_ids


@dataclass(frozen=True)
class Counterfactual:
    """A subject that can replace the prompt's."""

    subject: str
    answer: str
    """Its answer in the atlas: the target of a logit difference."""
    shared_tokens: int
    """Number of tokens that equal the original's at the same position and so are not corrupted."""


def suggest_counterfactuals(
    model: LanguageModel, fact: Fact, *, limit: int = 10, atlas: Atlas | None = None
) -> tuple[Counterfactual, ...]:
    """Subjects of the atlas that can replace the fact's, sorted by shared tokens, the fewest first.

    Args:
        fact: of a relation of the atlas, or with a subject or prompt the atlas knows.
        limit: at most so many.
        atlas: the bundled one by default.

    Returns:
        Empty where no subject of the relation aligns.

    Raises:
        ValueError: if the relation cannot be told, or the subject is not in the prompt.
    """
    atlas = atlas or load_atlas()
    relation, answer = _relation(atlas, fact)
    span = subject_span(model, fact.prompt, fact.subject, fact.start)
    subject = range(span.start, span.stop)
    ids = model.encode(fact.prompt)
    aligned = []
    for row in atlas.facts:
        if row.relation != relation or row.object == answer or row.subject == fact.subject:
            continue
        try:
            others = aligned_ids(model, fact, subject, row.subject)
        except ValueError:  # does not align: most do not
            continue
        shared = sum(ids[pos] == others[pos] for pos in subject)
        aligned.append(Counterfactual(row.subject, row.object, shared))
    return tuple(sorted(aligned, key=lambda other: other.shared_tokens)[:limit])


def _relation(atlas: Atlas, fact: Fact) -> tuple[str, str]:
    """The atlas's name of the relation, and the true answer."""
    fact_row = atlas.match(fact.prompt, fact.subject)
    if fact_row is not None:
        return fact_row.relation, fact.target_true or fact_row.target_true
    if fact.relation in atlas.relations:
        row = atlas.find(fact.subject, fact.relation)
        return fact.relation, fact.target_true or (row.object if row else "")
    named = [row for row in atlas.about(fact.subject) if row.object == fact.target_true]
    if len(named) != 1:
        raise ValueError(
            f"the atlas holds no relation for the prompt {fact.prompt!r} with the subject {fact.subject!r}; "
            "give the fact the name of an atlas relation, or name a counterfactual yourself"
        )
    return named[0].relation, named[0].object
