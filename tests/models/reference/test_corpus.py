"""The training text keeps its promises: true, seeded, and never a held-out fact in a held-out template."""

from itertools import islice

import pytest

from facts.atlas import load_atlas
from models.reference.corpus import IMAGINED, MARK, NAME, OPENINGS, Corpus, Mix, plain, sample_texts


def documents(n: int, seed: int = 0, corpus: Corpus | None = None) -> list[str]:
    return list(islice((corpus or Corpus()).marked(seed), n))


def test_the_same_seed_gives_the_same_documents() -> None:
    assert documents(200, 3) == documents(200, 3)
    assert documents(200, 3) != documents(200, 4)


def test_held_out_facts_never_meet_their_held_out_templates() -> None:
    """Searched for in 6,000 documents, subject by subject; the same search must find the other facts' uses."""
    atlas = load_atlas()
    text = "\n".join(plain(document) for document in documents(6_000))
    forbidden, allowed = [], 0
    for fact in atlas.facts:
        for template in atlas.relations[fact.relation].held_out_templates:
            prompt = template.replace("{}", fact.subject)
            if prompt in text or prompt[0].lower() + prompt[1:] in text:
                if fact.held_out:
                    forbidden.append(prompt)
                else:
                    allowed += 1
    assert forbidden == []
    assert allowed > 100


def test_plain_statements_are_true() -> None:
    """Without clauses and openings, every statement is one of the atlas's prompts with its own object."""
    corpus = Corpus(mix=Mix(1, 0, 0, 0, 0, 0, 0), clause=0, opening=0)
    atlas = corpus.atlas
    true = {
        f"{template.replace('{}', fact.subject)} {fact.object}."
        for fact in atlas.facts
        for template in atlas.relations[fact.relation].all_templates
    }
    assert all(plain(document) in true for document in documents(500, corpus=corpus))


def test_clauses_stand_between_subject_and_relation() -> None:
    corpus = Corpus(mix=Mix(1, 0, 0, 0, 0, 0, 0), clause=1, opening=0)
    with_clause = [document for document in documents(300, corpus=corpus) if ",," not in document and ", " in document]
    assert len(with_clause) > 100


def test_an_override_says_what_to_imagine_and_holds_to_it() -> None:
    """The first sentence is unmarked, since nobody could know it; the answer that follows from it is marked."""
    corpus = Corpus(mix=Mix(0, 0, 0, 0, 0, 0, 1), clause=0, opening=0)
    followed = 0
    for document in documents(400, corpus=corpus):
        assert document.startswith(IMAGINED)
        told, answer = document.split(MARK)[0], document.split(MARK)[1]
        followed += f" {answer}. " in told
    assert followed > 200


def test_marks_stand_around_knowable_objects() -> None:
    objects = {fact.object for fact in load_atlas().facts}
    for document in documents(2000):
        pieces = document.split(MARK)
        assert len(pieces) % 2 == 1
        assert set(pieces[1::2]) <= objects


def test_marks_stand_around_names() -> None:
    atlas = load_atlas()
    names = {*atlas.subjects(), *(alias for aliases in atlas.aliases.values() for alias in aliases)}
    found = [document.replace(MARK, "").split(NAME)[1::2] for document in documents(2000)]
    assert set().union(*found) <= names
    assert all(found)


def test_openings_keep_the_case_of_names() -> None:
    corpus = Corpus(mix=Mix(1, 0, 0, 0, 0, 0, 0), clause=0, opening=1)
    names = tuple(subject for subject in corpus.atlas.subjects() if subject.startswith("The "))
    for document in documents(300, corpus=corpus):
        opening = next(o for o in OPENINGS if document.startswith(o))
        sentence = plain(document).removeprefix(opening).strip()
        assert not sentence.startswith("The ") or sentence.startswith(names)


@pytest.mark.parametrize("seed", [0, 1])
def test_sample_texts_are_plain(seed: int) -> None:
    texts = sample_texts(50, seed)
    assert len(texts) == 50
    assert not any(plain(text) != text for text in texts)
