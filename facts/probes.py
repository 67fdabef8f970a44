"""Probes derived from the atlas: what an edit should change, what it must not change, and what should follow from it.

Paraphrase and neighborhood prompts as in CounterFact (Meng et al. 2022, appendix D); same-subject, alias, composition
and inverse prompts as in RippleEdits (Cohen et al. 2023, section 3) and zsRE portability (Yao et al. 2023, section 5).
"""

from __future__ import annotations

from facts.atlas import Atlas, AtlasFact
from facts.types import EditRequest, Fact, Probe

MAX_NEIGHBORS = 10


def edit_request(atlas: Atlas, fact: Fact, target_new: str, max_neighbors: int = MAX_NEIGHBORS) -> EditRequest:
    """The request to rewrite an atlas fact, with every probe the atlas can derive.

    Raises:
        ValueError: if the atlas does not hold the fact, or the new answer is unusable.
    """
    row = atlas.find(fact.subject, fact.relation)
    if row is None:
        raise ValueError(
            f"the atlas holds no fact {fact.relation!r} of {fact.subject!r}; "
            "write the probes yourself or choose an atlas fact"
        )
    probes = (
        *_paraphrases(atlas, fact, target_new),
        *_neighbors(atlas, row, fact.template, max_neighbors),
        *_same_subject(atlas, row),
        *_aliases(atlas, fact, target_new),
        *_one_hop(atlas, row, target_new),
        *_inverse(atlas, row, target_new),
    )
    return EditRequest(fact, target_new, probes, _generation(atlas, row))


def _paraphrases(atlas: Atlas, fact: Fact, target_new: str) -> list[Probe]:
    others = [template for template in atlas.relations[fact.relation].all_templates if template != fact.template]
    return [Probe("paraphrase", template.replace("{}", fact.subject), target_new) for template in others]


def _neighbors(atlas: Atlas, row: AtlasFact, template: str, most: int) -> list[Probe]:
    others = [other for other in atlas.sharing(row.relation, row.object) if other.subject != row.subject]
    return [Probe("neighborhood", template.replace("{}", other.subject), other.object) for other in others[:most]]


def _same_subject(atlas: Atlas, row: AtlasFact) -> list[Probe]:
    others = [other for other in atlas.about(row.subject) if other.relation != row.relation]
    return [Probe("same_subject", atlas.as_fact(other).prompt, other.object) for other in others]


def _aliases(atlas: Atlas, fact: Fact, target_new: str) -> list[Probe]:
    names = atlas.aliases.get(fact.subject, ())
    return [
        Probe("alias", name_prompt, target_new, ((name_prompt, fact.target_true),))
        for name_prompt in (fact.template.replace("{}", name) for name in names)
    ]


def compose(first_phrase: str, subject: str, second_template: str) -> str:
    """A two-hop prompt: the second relation asked of "the city where the Space Needle stands"."""
    prompt = (
        second_template.replace("{}", first_phrase.replace("{}", subject))
        .replace("the the ", "the ")
        .replace("The the ", "The ")
    )
    return prompt[0].upper() + prompt[1:]


def _one_hop(atlas: Atlas, row: AtlasFact, target_new: str) -> list[Probe]:
    relation = atlas.relations[row.relation]
    found = []
    for second in atlas.about(target_new):
        if atlas.relations[second.relation].subject_type != relation.object_type:
            continue
        old = atlas.find(row.object, second.relation)
        if old is not None and old.object == second.object:
            continue  # the answer is the same before and after, so it cannot tell whether the edit carried over
        prompt = compose(relation.phrase, row.subject, atlas.relations[second.relation].templates[0])
        found.append(Probe("one_hop", prompt, second.object, ((atlas.as_fact(second).prompt, second.object),)))
    return found


def _inverse(atlas: Atlas, row: AtlasFact, target_new: str) -> list[Probe]:
    relation = atlas.relations[row.relation]
    if not relation.unique_inverse:
        return []
    prompt = relation.inverse_template.replace("{}", target_new)
    # Counted only where the model can answer the inverse question at all: asked of the true object before the edit.
    known = relation.inverse_template.replace("{}", row.object)
    return [Probe("inverse", prompt, row.subject, ((known, row.subject),))]


def _generation(atlas: Atlas, row: AtlasFact) -> tuple[str, ...]:
    openings = [t.split("{}")[0] for t in atlas.relations[row.relation].templates if t.startswith(("{}", "The {}"))]
    return tuple(dict.fromkeys(f"{opening}{row.subject}" for opening in openings))[:2]
