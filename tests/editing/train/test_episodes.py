"""Episodes: split by subject, paraphrases that differ, hard bystanders, targets that are false."""

import random
from collections import Counter

import pytest

from editing.train.episodes import BYSTANDERS, Episodes, known_facts, split_of, training_objects
from editing.train.forward import greedy_right
from facts.atlas import load_atlas
from models import join, pad
from tests.editing.train.toys import toy_episodes
from tests.tiny import tiny_model

ATLAS = load_atlas()
KNOWN = frozenset((fact.subject, fact.relation) for fact in ATLAS.facts)


def test_the_split_is_a_function_of_the_name() -> None:
    # pinned: another split would leak test subjects into editors that were trained before
    names = ("Space Needle", "Eiffel Tower", "Marie Curie", "Toyota", "Miles Davis")
    assert [split_of(name) for name in names] == ["train", "test", "train", "test", "train"]
    counts = Counter(split_of(subject) for subject in ATLAS.subjects())
    shares = {split: count / len(ATLAS.subjects()) for split, count in counts.items()}
    assert shares["train"] == pytest.approx(0.7, abs=0.04)
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.04)
    assert [split_of(subject, seed=1) for subject in ATLAS.subjects()] != [split_of(s) for s in ATLAS.subjects()]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_episodes_stay_in_their_split(split: str) -> None:
    episodes = Episodes(ATLAS, split, KNOWN, prefixed=1.0).draw(random.Random(0), 60)  # type: ignore[arg-type]
    allowed = BYSTANDERS[split]  # type: ignore[index]
    others = {subject for subject in ATLAS.subjects() if split_of(subject) not in allowed}
    objects = {fact.object for fact in ATLAS.facts}
    foreign = {subject for subject in others - objects if len(subject) > 8}  # short names stand inside other words
    own = [subject for subject in ATLAS.subjects() if split_of(subject) in allowed]
    for episode in episodes:
        assert split_of(episode.request.fact.subject) == split
        for prompt in (*episode.paraphrases, *(kept.prompt for kept in episode.locality)):
            named = [subject for subject in foreign if subject in prompt]
            assert all(any(subject in mine and mine in prompt for mine in own) for subject in named), prompt


def test_no_test_subject_stands_by_before_the_test() -> None:
    assert BYSTANDERS["train"] == ("train",)
    assert "test" not in BYSTANDERS["validation"]


def test_an_episode_edits_one_fact_and_keeps_others() -> None:
    source = Episodes(ATLAS, "train", KNOWN)
    episodes = source.draw(random.Random(1), 64)
    edited = {(e.request.fact.subject, e.request.fact.relation) for e in episodes}
    assert len(edited) == 64
    truths = {(fact.subject, fact.object) for fact in ATLAS.facts}
    kinds = Counter(kept.kind for episode in episodes for kept in episode.locality)
    for episode in episodes:
        request, relation = episode.request, ATLAS.relations[episode.request.fact.relation]
        prompts = (request.fact.prompt, *episode.paraphrases)
        assert len(set(prompts)) == 3
        assert all(request.fact.subject in prompt for prompt in prompts)
        held_out = {template.replace("{}", request.fact.subject) for template in relation.held_out_templates}
        assert not any(prompt.endswith(words) for prompt in prompts for words in held_out)
        assert request.target_new in training_objects(ATLAS, relation.name)
        assert (request.fact.subject, request.target_new) not in truths
        for kept in episode.locality:
            asked = {
                (fact.subject, fact.relation)
                for fact in source.facts
                if fact.object == kept.answer
                and any(t.replace("{}", fact.subject) == kept.prompt for t in ATLAS.relations[fact.relation].templates)
            }
            assert asked
            assert not asked & edited
    assert kinds["same_relation"] > kinds["same_subject"] > 0 < kinds["random"]


def test_bystanders_of_the_same_relation_are_hard() -> None:
    source = Episodes(ATLAS, "train", KNOWN)
    episodes = source.draw(random.Random(2), 200)
    hard = [(e, kept) for e in episodes for kept in e.locality if kept.kind == "same_relation"]
    sharing = sum(kept.answer == episode.request.fact.target_true for episode, kept in hard)
    in_template = sum(
        kept.prompt.startswith(episode.request.fact.template.split("{}")[0])
        and kept.prompt.endswith(episode.request.fact.template.split("{}")[1])
        for episode, kept in hard
    )
    assert sharing > 0.4 * len(hard)
    assert in_template > 0.6 * len(hard)


def test_test_episodes_ask_templates_never_trained() -> None:
    for episode in Episodes(ATLAS, "test", KNOWN, prefixed=0.0).draw(random.Random(3), 30):
        relation = ATLAS.relations[episode.request.fact.relation]
        unseen = {template.replace("{}", episode.request.fact.subject) for template in relation.held_out_templates}
        assert unseen & set(episode.paraphrases)


def test_some_objects_are_never_a_target_in_training() -> None:
    wide = [relation for relation in ATLAS.relations if len(ATLAS.range_of(relation)) >= 20]
    for relation in wide:
        kept = training_objects(ATLAS, relation)
        assert len(kept) == round(0.9 * len(ATLAS.range_of(relation)))
        assert set(kept) < set(ATLAS.range_of(relation))


def test_draws_repeat_and_refuse_too_much() -> None:
    episodes = toy_episodes("train")
    assert episodes.draw(random.Random(5), 8) == episodes.draw(random.Random(5), 8)
    with pytest.raises(ValueError, match="1000 edits were asked for"):
        episodes.draw(random.Random(0), 1000)
    with pytest.raises(ValueError, match="knows only 0 facts of the test subjects"):
        Episodes(ATLAS, "test", frozenset())


def test_greedy_right_agrees_with_the_logits() -> None:
    model = tiny_model("gpt_neo")
    prompts = ["The Space Needle is", "Berlin", "Miles Davis plays the trumpet and"]
    said = []
    for prompt in prompts:
        best = int(model.logits(torch_ids(model.encode(prompt)))[0, -1].argmax())
        said.append(model.decode([best]).strip())
    pairs = [*zip(prompts, said, strict=True), *((prompt, "Cairo Dublin") for prompt in prompts)]
    wanted = []
    for prompt, answer in pairs:
        ids, n_prompt = join(model, prompt, answer or "x")
        best_ids = model.logits(torch_ids(ids))[0].argmax(-1)[n_prompt - 1 : -1].tolist()
        wanted.append(best_ids == ids[n_prompt:])
    assert greedy_right(model, [(prompt, answer or "x") for prompt, answer in pairs]) == wanted
    assert known_facts(model, ATLAS.facts[:4], ATLAS) == frozenset()


def torch_ids(ids: list[int]):  # type: ignore[no-untyped-def]
    """One row."""
    return pad([ids], 0)[0]


def test_relations_can_be_edited_alike() -> None:
    """Two relations of one size each give every other edit, however the draw falls."""
    for seed in range(5):
        drawn = toy_episodes("train", by_relation=True).draw(random.Random(seed), 7)
        relations = [episode.request.fact.relation for episode in drawn]
        assert {relations.count(name) for name in ("place", "home")} == {3, 4}
        assert len({(e.request.fact.subject, e.request.fact.relation) for e in drawn}) == 7
