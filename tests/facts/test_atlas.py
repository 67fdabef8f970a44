"""The atlas is what it says: unique, well-formed facts with chains, aliases and held-out paraphrases."""

from collections import Counter

import pytest

from facts.atlas import Atlas, load_atlas
from facts.probes import edit_request
from facts.types import Fact


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas()


def test_the_atlas_is_as_large_as_promised(atlas: Atlas) -> None:
    assert len(atlas.facts) >= 1500
    assert len({fact.relation for fact in atlas.facts}) >= 25
    assert sum(1 for _ in atlas.chains()) >= 300
    assert len(atlas.aliases) >= 150
    relations_of = Counter(fact.subject for fact in atlas.facts)
    assert sum(count >= 3 for count in relations_of.values()) >= 200


def test_subject_and_relation_determine_the_object(atlas: Atlas) -> None:
    keys = Counter((fact.relation, fact.subject) for fact in atlas.facts)
    assert [key for key, count in keys.items() if count > 1] == []


def test_every_fact_is_of_a_described_relation(atlas: Atlas) -> None:
    assert {fact.relation for fact in atlas.facts} == set(atlas.relations)
    for fact in atlas.facts:
        assert fact.subject == fact.subject.strip() != ""
        assert fact.object == fact.object.strip() != ""
        assert fact.subject != fact.object


def test_templates_have_one_place_for_the_subject_and_belong_to_one_relation(atlas: Atlas) -> None:
    owners = Counter()
    for relation in atlas.relations.values():
        assert len(relation.all_templates) >= 6
        assert len(relation.held_out_templates) >= 2
        for template in relation.all_templates:
            assert template.count("{}") == 1
            assert template == template.rstrip(" .,:?")
            owners[template] += 1
        assert relation.question.count("{}") == relation.phrase.count("{}") == 1
        assert bool(relation.inverse_template) == relation.unique_inverse
    assert max(owners.values()) == 1


def test_a_quarter_of_the_facts_is_held_out(atlas: Atlas) -> None:
    share = sum(fact.held_out for fact in atlas.facts) / len(atlas.facts)
    assert 0.2 <= share <= 0.3


def test_objects_of_a_relation_are_of_one_type(atlas: Atlas) -> None:
    """A city named as an object is one the atlas knows as a city, and so on for every type with facts of its own."""
    types_of: dict[str, set[str]] = {}
    for fact in atlas.facts:
        types_of.setdefault(fact.subject, set()).add(atlas.relations[fact.relation].subject_type)
    for relation in atlas.relations.values():
        known = [types_of[target] for target in atlas.range_of(relation.name) if target in types_of]
        assert all(relation.object_type in types for types in known), relation.name
        assert len(atlas.range_of(relation.name)) >= 2


def test_chains_chain(atlas: Atlas) -> None:
    for chain in atlas.chains():
        assert chain.first.object == chain.second.subject
        assert atlas.relations[chain.first.relation].object_type == atlas.relations[chain.second.relation].subject_type
    pairs = {(chain.first.relation, chain.second.relation) for chain in atlas.chains()}
    assert {("landmark_city", "city_country"), ("person_birthplace", "city_country")} <= pairs
    assert ("product_maker", "company_headquarters") in pairs


def test_inverses_that_are_called_unique_are(atlas: Atlas) -> None:
    for relation in atlas.relations.values():
        if relation.unique_inverse:
            for target in atlas.range_of(relation.name):
                assert len(atlas.sharing(relation.name, target)) == 1, (relation.name, target)


def test_subjects_that_give_an_answer_away_are_marked(atlas: Atlas) -> None:
    for fact in atlas.facts:
        leaks = any(other.object.lower() in fact.subject.lower() for other in atlas.about(fact.subject))
        assert fact.contains_answer == leaks, fact


def test_aliases_name_one_subject_and_give_nothing_away(atlas: Atlas) -> None:
    names = Counter(alias for aliases in atlas.aliases.values() for alias in aliases)
    assert max(names.values()) == 1
    assert not set(names) & set(atlas.subjects())
    for subject, aliases in atlas.aliases.items():
        for fact in atlas.about(subject):
            assert not any(fact.object.lower() in alias.lower() for alias in aliases), (subject, fact.object)


def test_a_request_derives_its_probes(atlas: Atlas) -> None:
    row = atlas.find("Space Needle", "landmark_city")
    assert row is not None
    request = edit_request(atlas, atlas.as_fact(row), "Paris")
    assert request.fact.prompt == "The Space Needle is located in the city of"
    paraphrases = request.of_kind("paraphrase")
    assert len(paraphrases) >= 5
    assert all(probe.answer == "Paris" and "Space Needle" in probe.prompt for probe in paraphrases)
    neighbors = request.of_kind("neighborhood")
    assert neighbors
    assert all(probe.answer == "Seattle" and "Space Needle" not in probe.prompt for probe in neighbors)
    hops = {probe.answer: probe for probe in request.of_kind("one_hop")}
    assert "France" in hops
    assert all("Space Needle" in probe.prompt for probe in hops.values())
    assert all("Paris" in prompt for prompt, _ in hops["France"].bridge)


def test_inverse_probes_exist_only_where_the_inverse_is_unique(atlas: Atlas) -> None:
    capital = atlas.find("France", "country_capital")
    assert capital is not None
    inverse = edit_request(atlas, atlas.as_fact(capital), "Rome").of_kind("inverse")
    assert [probe.answer for probe in inverse] == ["France"]
    assert "Rome" in inverse[0].prompt
    landmark = atlas.find("Space Needle", "landmark_city")
    assert landmark is not None
    assert edit_request(atlas, atlas.as_fact(landmark), "Paris").of_kind("inverse") == ()


def test_a_fact_outside_the_atlas_is_refused(atlas: Atlas) -> None:
    with pytest.raises(ValueError, match="the atlas holds no fact"):
        edit_request(atlas, Fact("Nowhere", "{} is in", "Paris", "landmark_city"), "Rome")


def test_counterfactuals_are_false_seeded_and_in_range(atlas: Atlas) -> None:
    for fact in atlas.facts[::37]:
        target = atlas.counterfactual(fact, seed=3)
        assert target == atlas.counterfactual(fact, seed=3) != fact.object
        assert target in atlas.range_of(fact.relation)


def test_prompts_are_recognised(atlas: Atlas) -> None:
    fact = atlas.match("The Space Needle is located in the city of", "Space Needle")
    assert fact is not None
    assert (fact.target_true, fact.relation) == ("Seattle", "landmark_city")
    assert atlas.match("The Space Needle is a poem by", "Space Needle") is None
