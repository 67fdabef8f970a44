"""Score answers and continue prompts of one model together: what prompts share is computed once.

A prompt, its answers and other prompts that begin alike are one tree (`models.forwards.tree`), read in one forward.
The continuations then go on from there, all together.  Where a model does not give the same that way, answers are
scored and prompts continued row by row (`metrics.asking.logprobs`, `metrics.asking.generation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any

from metrics.asking import generation, logprobs
from metrics.asking.generation import Said
from metrics.asking.kept import answers
from metrics.asking.logprobs import Forced
from models.forwards.tree import LONGEST, MOST_NODES, Tree, TreeForward, joined_cache, shares_beginnings
from models.generation import greedy

if TYPE_CHECKING:
    from models import LanguageModel

MOST_LOGITS = 2**26
"""Largest [node, d_vocab] block of logits held at once, entries (256 MiB in float32)."""

Tick = Callable[[int], None]


def ask(
    model: LanguageModel, scored: Sequence[logprobs.Question], continued: Sequence[generation.Question], tick: Tick
) -> tuple[dict[logprobs.Question, Forced], dict[generation.Question, Said]]:
    """The reading of every answer and the continuation of every prompt; an unedited model is asked each once.

    Args:
        tick: called with the number of questions that are answered; may raise to stop.
    """
    questions: list[_Question] = [*scored, *continued]
    found = answers(model, questions, lambda new: _asked(model, new, tick), tick)
    return {question: found[question] for question in scored}, {question: found[question] for question in continued}


_Question = logprobs.Question | generation.Question


def _asked(model: LanguageModel, questions: Sequence[_Question], tick: Tick) -> dict[_Question, Any]:
    if not questions:
        return {}
    if model.bare is not model:
        whole = {question: _behind_prefix(model, question) for question in questions}
        found = _asked(model.bare, list(dict.fromkeys(whole.values())), tick)
        return {question: found[whole[question]] for question in questions}
    shared = shares_beginnings(model)
    units: dict[tuple[int, ...], _Unit] = {}
    apart = _Unit()
    for question in questions:
        ids, n_prompt = question[0], question[1] if len(question) == 3 else len(question[0])
        unit = units.setdefault(ids[:n_prompt], _Unit()) if shared and len(ids) <= LONGEST else apart
        if len(question) == 3:
            unit.scored.append(question)
        else:
            unit.continued.append(question)
    said: dict[_Question, Any] = {}
    waiting: list[_Waiting] = []
    for group in _groups(model, units):
        waiting += _read(model, group, said, tick)
        while len(waiting) >= generation.BATCH:
            _go_on(model, waiting[: generation.BATCH], said, tick)
            del waiting[: generation.BATCH]
    _go_on(model, waiting, said, tick)
    return said | _row_by_row(model, apart, tick)


def _behind_prefix(model: LanguageModel, question: _Question) -> _Question:
    """The question that `model.bare` answers."""
    row, _ = model.behind_prefix(question[0])
    if len(question) == 3:
        return tuple(row), question[1] + len(row) - len(question[0]), question[2]
    return tuple(row), question[1]


def _row_by_row(model: LanguageModel, unit: _Unit, tick: Tick) -> dict[_Question, Any]:
    forced = logprobs.score(model, unit.scored, tick)
    begun: dict[tuple[int, ...], tuple[int, ...]] = {}
    for (ids, n_prompt, _), read in forced.items():
        beginning = tuple(takewhile(lambda token: token not in model.eos_ids, read.beginning))
        if len(beginning) > len(begun.get(ids[:n_prompt], ())):
            begun[ids[:n_prompt]] = beginning
    said = generation.decoded(model, unit.continued, begun, tick)
    return dict[_Question, Any]([*forced.items(), *said.items()])


@dataclass
class _Unit:
    """What is asked about one prompt."""

    scored: list[logprobs.Question] = field(default_factory=list)
    continued: list[generation.Question] = field(default_factory=list)


class _Group:
    """Prompts that are read in one forward, with the nodes of their tokens."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.scored: list[tuple[logprobs.Question, list[int]]] = []
        """With the nodes that predict the answer."""
        self.continued: list[tuple[generation.Question, list[int]]] = []
        """With the nodes of the prompt."""
        self.places: dict[int, int] = {}
        """Node whose logits are read -> its number among them."""

    def add(self, prompt: tuple[int, ...], unit: _Unit) -> None:
        """Add what is asked about a prompt."""
        path = self.tree.add(prompt)
        self.continued += [(question, path) for question in unit.continued]
        # behind an answer's last token nothing is read
        self.scored += [(question, self.tree.add(question[0][:-1])[question[1] - 1 :]) for question in unit.scored]
        for node in (path[-1], *(node for _, nodes in self.scored[-len(unit.scored) :] for node in nodes)):
            self.places.setdefault(node, len(self.places))


def _groups(model: LanguageModel, units: Mapping[tuple[int, ...], _Unit]) -> Iterator[_Group]:
    group = _Group()
    for prompt in sorted(units):  # so that prompts that begin alike follow each other
        unit = units[prompt]
        rows = [prompt, *(ids[:-1] for ids, _, _ in unit.scored)]
        nodes = group.tree.behind_fork(prompt) + sum(group.tree.new_nodes(row) for row in rows[1:])
        places = len(group.places) + 1 + sum(len(ids) - n_prompt for ids, n_prompt, _ in unit.scored)
        if len(group.tree) and (nodes > MOST_NODES or places * model.d_vocab > MOST_LOGITS):
            yield group
            group = _Group()
        group.add(prompt, unit)
    if len(group.tree):
        yield group


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A continuation that goes on behind what a forward read."""

    question: generation.Question
    begun: list[int]
    forward: TreeForward
    nodes: list[int]
    """Of the prompt and what is begun, but for the last token."""
    room: int
    """Tokens that may follow."""


def _read(model: LanguageModel, group: _Group, said: dict[_Question, Any], tick: Tick) -> list[_Waiting]:
    """Read a group's scores and the beginnings of its continuations; return the continuations that go on."""
    forward = TreeForward(model, group.tree, list(group.places))
    for answer, behind in group.scored:
        said[answer] = logprobs.reading(forward.logits[[group.places[node] for node in behind]], *answer)
    predicted = forward.logits.argmax(-1).tolist()
    forward.logits = forward.logits[:0]  # only the keys and values are needed from here on
    waiting = []
    for question, path in group.continued:
        row, budget = question
        room = min(budget, model.max_positions - len(row))
        begun, nodes, ended = list[int](), list(path), room == 0
        while not ended and len(begun) < room and len(nodes) == len(row) + len(begun):
            token = predicted[group.places[nodes[-1]]]
            ended = token in model.eos_ids
            if not ended:
                begun.append(token)
                child = group.tree.child(nodes[-1], token)
                nodes += [child] if child in group.places else []
        if ended or len(begun) == room:
            said[question] = generation.said(model, question, begun)
        else:
            waiting.append(_Waiting(question, begun, forward, nodes, room - len(begun)))
    tick(len(group.scored) + len(group.continued) - len(waiting))
    return waiting


def _go_on(model: LanguageModel, waiting: Sequence[_Waiting], said: dict[_Question, Any], tick: Tick) -> None:
    if not waiting:
        return
    rows = [[*each.question[0], *each.begun] for each in waiting]
    if len(rows) > 1 and max(map(len, rows)) + max(each.room for each in waiting) > model.max_positions:
        for each in waiting:  # a padded row would go on beside the longest, beyond the context
            _go_on(model, [each], said, tick)
        return
    width = max(map(len, rows)) - 1
    runs = [(forward, list(some)) for forward, some in groupby(waiting, key=lambda each: each.forward)]
    cache = joined_cache([forward.keys_values([each.nodes for each in some], width) for forward, some in runs])
    prompts, steps = [len(each.question[0]) for each in waiting], [each.room for each in waiting]
    with model.lock:
        made = greedy(model.module, rows, prompts, steps, model.eos_ids, model.device, cache)
    for each, ids in zip(waiting, made, strict=True):
        said[each.question] = generation.said(model, each.question, [*each.begun, *ids])
    tick(len(waiting))
