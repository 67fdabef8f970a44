"""The edits every method is measured by: facts of test subjects, which no trained editor has seen; and the layer that
traces of other subjects suggest."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from app.workflow import locate
from editing.parts.suggest import suggest_layer
from editing.train.episodes import known_facts, split_of
from editing.train.forward import greedy_right
from facts import EditRequest, Probe
from facts.atlas import Atlas, AtlasFact
from facts.probes import edit_request
from models import LanguageModel

SAME_RELATION = 5
"""Other subjects of the edited relation, with any object, that are asked about besides the neighbours."""
TRACED, SAMPLES = 8, 10
"""Facts traced to suggest a layer, and noise samples of each."""


def held_out_requests(
    model: LanguageModel, atlas: Atlas, n: int, seed: int = 0, max_neighbors: int = 5
) -> list[EditRequest]:
    """`n` requests about facts the model knows and answers at the edit prompt, all relations alike, with every probe
    the atlas can derive.

    Subjects are those of the test split; a subject that contains the answer is left out.

    Raises:
        ValueError: if the model knows fewer.
    """
    source = random.Random(f"benchmark|{seed}")
    rows = [fact for fact in atlas.facts if split_of(fact.subject) == "test" and not fact.contains_answer]
    source.shuffle(rows)
    known = known_facts(model, rows, atlas)
    templates = [source.choice(atlas.relations[row.relation].templates) for row in rows]
    questions = [
        (template.replace("{}", row.subject), row.object) for row, template in zip(rows, templates, strict=True)
    ]
    answered = greedy_right(model, questions)
    by_relation: dict[str, list[tuple[AtlasFact, str]]] = defaultdict(list)
    for row, template, right in zip(rows, templates, answered, strict=True):
        if right and (row.subject, row.relation) in known:
            by_relation[row.relation].append((row, template))
    total = sum(map(len, by_relation.values()))
    if total < n:
        raise ValueError(f"{n} edits were asked for, but {model.name} knows {total} facts of the test subjects")
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


def suggested_layer(model: LanguageModel, atlas: Atlas) -> int:
    """The layer the page would most often suggest for an edit, by traces of MLP outputs over `TRACED` facts of
    validation subjects that the model knows; where most of them suggest none, the usual layer for the model.
    """
    rows = [fact for fact in atlas.facts if split_of(fact.subject) == "validation" and not fact.contains_answer]
    random.Random("layer").shuffle(rows)
    known = known_facts(model, rows, atlas)
    facts = [atlas.as_fact(row) for row in rows if (row.subject, row.relation) in known][:TRACED]
    layers = [locate(model, fact, samples=SAMPLES).suggested for fact in facts]
    votes = Counter(layer for layer in layers if layer is not None)
    return votes.most_common(1)[0][0] if 2 * votes.total() > len(facts) else suggest_layer(model)
