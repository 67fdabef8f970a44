"""What an unedited model said is kept and not asked again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from editing import apply_edits
from editing.edit import Edit
from metrics import evaluate
from metrics.asking import kept
from metrics.asking.generation import continuations
from metrics.asking.logprobs import Forced, score_answers
from tests.metrics.cases import REQUEST, base_model, edited_model
from tests.tiny import tiny_model


def test_an_unedited_model_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base, asked = base_model(), list[int]()
    real = base.logits

    def counted(ids: torch.Tensor, *more: object) -> torch.Tensor:
        asked.append(len(ids))
        return real(ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "logits", counted)
    reports = [evaluate(base, edited_model(), REQUEST, guard_texts=["It rained."]) for _ in range(2)]
    assert sum(asked) > 0
    first = sum(asked)
    evaluate(base, edited_model(), REQUEST, guard_texts=["It rained."])
    assert sum(asked) == first
    assert reports[0].rows == reports[1].rows


def test_a_view_with_edits_is_asked_anew() -> None:
    model = tiny_model("llama")
    view = apply_edits(model, list[Edit]())
    score_answers(view, [("Rome is", "Paris")])
    assert view not in kept._KEPT
    score_answers(model, [("Rome is", "Paris")])
    assert model in kept._KEPT


def test_the_same_question_with_another_budget_is_another_question() -> None:
    model = tiny_model("gpt2")
    short, long = (continuations(model, {"Rome is": budget})["Rome is"] for budget in (2, 6))
    assert long.startswith(short)
    assert len(long) > len(short)


@dataclass(frozen=True, eq=False)
class _Answer:
    distribution: torch.Tensor


def test_what_was_used_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    memory = kept.Kept()
    for name in "abc":
        memory.add(name, _Answer(torch.zeros(8, dtype=torch.float32)))  # 32 bytes each: three fit
    assert memory.known(["a"]).keys() == {"a"}  # now the one used last
    memory.add("d", _Answer(torch.zeros(8)))
    assert memory.known("abcd").keys() == {"a", "c", "d"}
    memory.add("e", _Answer(torch.zeros(26)))  # 104 bytes: more than all the room
    assert memory.known("acde").keys() == set()


@pytest.mark.parametrize(
    ("answer", "said", "beginning"),
    [
        ((5, 6, 7), (5, 6, 7), (5, 6, 7)),  # the model says the answer
        ((5, 6, 7), (5, 9, 7), (5, 9)),  # 7 was predicted behind an answer that the model does not give
        ((5, 6), (8, 6), (8,)),
    ],
)
def test_a_forced_answer_tells_how_the_continuation_begins(
    answer: tuple[int, ...], said: tuple[int, ...], beginning: tuple[int, ...]
) -> None:
    assert Forced(0.0, 1.0, 1.0, 1, tokens=answer, predicted=said).beginning == beginning
