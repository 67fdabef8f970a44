"""Draw the facts and requests of a study: in a shuffled order, only those that the model knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from experiments.plan_files import sample_facts
from facts import Case, EditRequest, Fact
from facts.atlas import load_atlas
from facts.importers import answered, list_cases
from facts.probes import edit_request

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from models import LanguageModel

T = TypeVar("T")
ATLAS = "atlas"


@dataclass(frozen=True)
class Drawn(Generic[T]):
    """The facts or requests drawn, and those that were skipped."""

    items: tuple[T, ...]
    unknown: tuple[str, ...] = ()
    """Prompts to which the model does not give the true answer."""
    rejected: int = 0
    """Rows of the file that could not be read."""
    untold: int = 0
    """Facts of the file without a true answer."""
    several: int = 0
    """Cases of the file with several edits, where only single ones count."""

    @property
    def about(self) -> dict[str, Any]:
        """What the run's record says of the skipped ones."""
        counts = {"no_true_answer": self.untold, "cases_of_several_edits": self.several}
        skipped = {name: count for name, count in counts.items() if count}
        return {"unknown": list(self.unknown), "rejected_rows": self.rejected, **skipped}


def add_source(parser: ArgumentParser, facts: int, what: str = "facts that the model knows") -> None:
    """The options that `draw_facts` and `draw_requests` take."""
    parser.add_argument("--facts", type=int, default=facts, help=what)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of facts, and of what else is drawn")
    parser.add_argument("--source", default=ATLAS, help="'atlas', or a dataset's file, as facts.importers reads it")


def draw_facts(model: LanguageModel, source: str, count: int, seed: int) -> Drawn[Fact]:
    """The first `count` facts, in a shuffled order, whose true answer is the model's own.

    Args:
        source: "atlas", or a dataset's file.

    Raises:
        ValueError: if the model knows fewer, the count is not positive, or the file cannot be read or states no true
            answer.
        FileNotFoundError: if there is no such file.
    """
    if source == ATLAS:
        return first_known(_atlas_facts(seed), count, lambda fact: _knows(model, fact))
    cases, rejected = _from_file(source, seed)
    facts = [fact for case in cases for fact in case.facts if fact.names_subject]
    told, untold = answered(facts, lambda fact: fact, source)
    return replace(first_known(told, count, lambda fact: _knows(model, fact), rejected), untold=untold)


def draw_requests(
    model: LanguageModel,
    source: str,
    count: int,
    seed: int,
    all_facts: bool = False,
    keep_same: bool = False,
    splits: Sequence[str] = (),
) -> Drawn[EditRequest]:
    """The first `count` requests, in a shuffled order, to rewrite a fact that the model knows.

    Facts of the atlas get another answer of their relation, and the probes that the atlas derives; of a dataset, cases
    with one request count, and the others are counted.

    Args:
        all_facts: whether facts that the model does not know count too.
        keep_same: as `keep_same_answers` of `facts.importers.read_cases`.
        splits: of `editing.train.episodes.split_of`; of the atlas only facts about their subjects, those of the first
            split first.

    Raises:
        ValueError, FileNotFoundError: as `draw_facts`.
    """
    if source == ATLAS:
        atlas = load_atlas()
        drawn = first_known(
            _of_splits(_atlas_facts(seed), splits), count, lambda fact: all_facts or _knows(model, fact)
        )
        requests = []
        for fact in drawn.items:
            row = atlas.find(fact.subject, fact.relation)
            assert row is not None, "the fact is of the atlas"
            requests.append(edit_request(atlas, fact, atlas.counterfactual(row, seed)))
        return Drawn(tuple(requests), drawn.unknown)
    cases = draw_cases(model, source, count, seed, all_facts, keep_same, single=True)
    single = tuple(case.requests[0] for case in cases.items)
    return Drawn(single, cases.unknown, cases.rejected, cases.untold, cases.several)


def draw_cases(
    model: LanguageModel,
    source: str,
    count: int,
    seed: int,
    all_facts: bool = False,
    keep_same: bool = False,
    *,
    single: bool = False,
) -> Drawn[Case]:
    """The first `count` cases of a file, in a shuffled order, whose facts the model knows.

    Args:
        all_facts, keep_same: as in `draw_requests`.
        single: leave out cases of several edits.

    Raises:
        ValueError, FileNotFoundError: as `draw_facts`.
    """
    cases, rejected = _from_file(source, seed, keep_same)
    edits = [case for case in cases if case.requests]
    usable = [case for case in edits if len(case.requests) == 1] if single else edits
    if not usable:
        what = (
            f"only cases of several edits ({len(edits)}), which this study makes one at a time" if edits else "no edit"
        )
        raise ValueError(f"{Path(source).name} holds {what}; give another file")
    told, untold = (usable, 0) if all_facts else answered(usable, lambda case: case.requests[0].fact, source)

    def known(case: Case) -> bool:
        return all_facts or all(_knows(model, request.fact) for request in case.requests)

    return replace(first_known(told, count, known, rejected), untold=untold, several=len(edits) - len(usable))


def first_known(items: Iterable[T], count: int, known: Callable[[T], bool], rejected: int = 0) -> Drawn[T]:
    """The first `count` items that the model knows.

    Raises:
        ValueError: if there are fewer, or the count is not positive.
    """
    if count < 1:
        raise ValueError(f"{count} facts were asked for; expected at least 1")
    drawn: list[T] = []
    unknown: list[str] = []
    for item in items:
        if len(drawn) == count:
            break
        if known(item):
            drawn.append(item)
        else:
            unknown.append(_prompt(item))
    if len(drawn) < count:
        there = f"the model knows {len(drawn)} of {len(drawn) + len(unknown)}" if unknown else f"there are {len(drawn)}"
        raise ValueError(f"{count} facts were asked for and {there}; ask for fewer, or give a file with more")
    return Drawn(tuple(drawn), tuple(unknown), rejected)


def _prompt(item: Any) -> str:
    return str(item.prompt if isinstance(item, Fact) else item.facts[0].prompt)


def _knows(model: LanguageModel, fact: Fact) -> bool:
    from tracing.engine.averaging import knows
    from tracing.engine.question import ask

    return knows(model, ask(model, fact))


def _atlas_facts(seed: int) -> list[Fact]:
    atlas = load_atlas()
    usable = sum(not row.contains_answer for row in atlas.facts)
    return [atlas.as_fact(row) for row in sample_facts(usable, seed)]


def _of_splits(facts: list[Fact], splits: Sequence[str]) -> list[Fact]:
    """The facts about subjects of these splits, one split after the other; all of them where none is named."""
    from editing.train.episodes import split_of

    return [fact for split in splits for fact in facts if split_of(fact.subject) == split] if splits else facts


def _from_file(path: str, seed: int, keep_same: bool = False) -> tuple[list[Case], int]:
    listed = list_cases(path, keep_same_answers=keep_same)
    cases = list(listed.cases)
    random.Random(f"cases|{seed}").shuffle(cases)
    return cases, listed.n_rejected
