"""Demonstrations for in-context editing: facts of the atlas that show where a stated fact applies and where not.

Zheng et al. 2023, section 3.2 (IKE, arXiv:2305.12740).  Three kinds, in the ratio 1 : 3 : 4:

    copy     a made-up fact, then the same prompt with the made-up answer
    update   a made-up fact, then a paraphrase with the made-up answer
    retain   a made-up fact, then another subject's prompt with its true answer

The facts are those most similar to the edit, the most similar last.  The paper compares them by a sentence encoder;
here similarity is the cosine of the edited model's own mean input embeddings, or the share of words in common.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from facts import Fact
from facts.atlas import Atlas, AtlasFact
from models import LanguageModel

Kind = Literal["copy", "update", "retain"]
Similarity = Literal["embedding", "words"]
Wording = Literal["sentence", "paper"]
SHARES: dict[Kind, int] = {"copy": 1, "update": 3, "retain": 4}


@dataclass(frozen=True)
class Demonstration:
    """A stated fact, and a question with its answer."""

    kind: Kind
    stated: Fact
    """`target_true` is the made-up answer."""
    prompt: str
    answer: str


def counts(n: int) -> dict[Kind, int]:
    """How many of `n` demonstrations are of each kind: 4, 12 and 16 of 32, and the nearest to that ratio otherwise."""
    whole = sum(SHARES.values())
    by_kind = {kind: n * share // whole for kind, share in SHARES.items()}
    by_rest = sorted(SHARES, key=lambda kind: (-(n * SHARES[kind] % whole), -SHARES[kind]))
    for kind in by_rest[: n - sum(by_kind.values())]:
        by_kind[kind] += 1
    return by_kind


def kinds(n: int, seed: int) -> list[Kind]:
    """The kinds of `n` demonstrations in a seeded order."""
    listed = [kind for kind, count in counts(n).items() for _ in range(count)]
    random.Random(seed).shuffle(listed)
    return listed


def nearest(
    model: LanguageModel, atlas: Atlas, fact: Fact, n: int, similarity: Similarity = "embedding"
) -> list[AtlasFact]:
    """The `n` facts of other subjects most similar to this one, most similar first; ties keep the atlas's order."""
    others = [row for row in atlas.facts if row.subject != fact.subject]
    prompts = [atlas.as_fact(row).prompt for row in others]
    likeness = _cosine(model, fact.prompt, prompts) if similarity == "embedding" else _shared(fact.prompt, prompts)
    order = sorted(range(len(others)), key=lambda index: -likeness[index])
    return [others[index] for index in order[:n]]


def _cosine(model: LanguageModel, prompt: str, others: Sequence[str]) -> list[float]:
    """Cosine of mean input embeddings."""
    rows = [model.tokenize(text) for text in (prompt, *others)]
    flat = model.embedding([token for row in rows for token in row]).float()
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row) for row in rows])).to(flat.device)
    sums = torch.zeros(len(rows), flat.shape[1], device=flat.device).index_add_(0, owner, flat)
    unit = torch.nn.functional.normalize(sums, dim=-1)
    cosines: list[float] = (unit[1:] @ unit[0]).tolist()
    return cosines


def _shared(prompt: str, others: Sequence[str]) -> list[float]:
    """Words in common over words in either."""
    words = set(prompt.casefold().split())
    sets = [set(other.casefold().split()) for other in others]
    return [len(words & other) / max(len(words | other), 1) for other in sets]


def demonstrate(atlas: Atlas, row: AtlasFact, kind: Kind, seed: int) -> Demonstration:
    """One fact of the atlas as a demonstration; paraphrases use other templates of its relation."""
    relation = atlas.relations[row.relation]
    stated = Fact(row.subject, relation.templates[0], atlas.counterfactual(row, seed), row.relation)
    if kind == "copy":
        return Demonstration(kind, stated, stated.prompt, stated.target_true)
    draw = random.Random(f"{seed}|{row.relation}|{row.subject}|{kind}")
    if kind == "update":
        template = draw.choice(relation.templates[1:] or relation.templates)
        return Demonstration(kind, stated, template.replace("{}", row.subject), stated.target_true)
    same = [other for other in atlas.sharing(row.relation, row.object) if other.subject != row.subject]
    other = draw.choice(same or [other for other in atlas.facts if other.subject != row.subject])
    return Demonstration(kind, stated, atlas.as_fact(other).prompt, other.object)


def statement(fact: Fact, answer: str, wording: Wording) -> str:
    """The text that states a fact."""
    if wording == "paper":
        return f"New Fact: {fact.prompt} {answer}\n"
    template = fact.template
    inside = template if template.startswith("{}") else template[:1].lower() + template[1:]
    return f" New fact: {inside.replace('{}', fact.subject)} {answer}."


def question(prompt: str, answer: str, wording: Wording) -> str:
    """The text that asks and answers."""
    return f"Prompt: {prompt} {answer}\n\n" if wording == "paper" else f" {prompt} {answer}."


OPENINGS: dict[Wording, str] = {"paper": "Prompt:", "sentence": ""}
"""What stands between the last statement and the reader's prompt."""
