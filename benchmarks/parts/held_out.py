"""The edits every method is measured by: facts of test subjects, which no trained editor has seen and no setting was
chosen on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from editing.train.episodes import Split, known_facts, split_of
from editing.train.forward import greedy_right
from facts import EditRequest, Probe
from facts.atlas import Atlas, AtlasFact
from facts.probes import edit_request
from models import LanguageModel

SAME_RELATION = 5
"""Other subjects of the edited relation, with any object, that are asked about besides the neighbours."""


def held_out_requests(
    model: LanguageModel, atlas: Atlas, n: int, seed: int = 0, max_neighbors: int = 5, split: Split = "test"
) -> list[EditRequest]:
    """`n` requests about facts the model knows and answers at the edit prompt, all relations alike, with every probe
    the atlas can derive.

    A subject that contains the answer is left out.

    Args:
        split: whose subjects; "validation" to choose settings by.

    Raises:
        ValueError: if the model knows fewer.
    """
    source = random.Random(f"benchmark|{seed}")
    rows = [fact for fact in atlas.facts if split_of(fact.subject) == split and not fact.contains_answer]
    source.shuffle(rows)
    templates = [source.choice(atlas.relations[row.relation].templates) for row in rows]
    questions = [
        (template.replace("{}", row.subject), row.object) for row, template in zip(rows, templates, strict=True)
    ]
    answered = greedy_right(model, questions)
    # most facts are unknown to a small model, and one question each says so
    likely = [(row, template) for row, template, right in zip(rows, templates, answered, strict=True) if right]
    known = known_facts(model, [row for row, _ in likely], atlas)
    by_relation: dict[str, list[tuple[AtlasFact, str]]] = defaultdict(list)
    for row, template in likely:
        if (row.subject, row.relation) in known:
            by_relation[row.relation].append((row, template))
    total = sum(map(len, by_relation.values()))
    if total < n:
        raise ValueError(f"{n} edits were asked for, but {model.name} knows {total} facts of the {split} subjects")
    chosen: list[EditRequest] = []
    while len(chosen) < n:
        for left in by_relation.values():
            if left and len(chosen) < n:
                row, template = left.pop()
                target = atlas.counterfactual(row, seed)
                request = edit_request(atlas, atlas.as_fact(row, template), target, max_neighbors)
                chosen.append(replace(request, generation_prompts=()))
    return chosen


def with_same_relation(atlas: Atlas, requests: Sequence[EditRequest], seed: int = 0) -> list[EditRequest]:
    """The requests with `SAME_RELATION` other facts of each one's relation, drawn from all of them: every other one in
    the edit's own words, the rest in any training template.

    Neighbours share the edit's true object, which makes them the hardest of these.
    """
    source = random.Random(f"same relation|{seed}")
    requests_with_rivals = []
    for request in requests:
        fact = request.fact
        others = [row for row in atlas.facts if row.relation == fact.relation and row.subject != fact.subject]
        probes = []
        for index, row in enumerate(source.sample(others, min(SAME_RELATION, len(others)))):
            template = source.choice(atlas.relations[row.relation].templates) if index % 2 else fact.template
            probes.append(Probe("unchanged", template.replace("{}", row.subject), row.object))
        requests_with_rivals.append(replace(request, probes=(*request.probes, *probes)))
    return requests_with_rivals
