"""What an unedited model said is kept and not asked again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from editing import apply_edits
from metrics import evaluate
from metrics.asking import kept
from metrics.asking.generation import continuations
from metrics.asking.logprobs import Forced
from models import LanguageModel
from tests.editing.made import low_rank, made, stated
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


def test_a_view_is_told_from_the_model_and_from_other_edits() -> None:
    model, asked = tiny_model("llama"), list[str]()

    def ask(some: LanguageModel) -> str:
        def answer(new: list[str]) -> dict[str, str]:
            asked.extend(new)
            return {question: some.revision for question in new}

        return kept.answers(some, ["Rome is"], answer, lambda _: None, edited=True)["Rome is"]

    weight, words = made(model, low_rank(model, 1, 0)), made(model, stated(model, "Rome"))
    views = [apply_edits(model, edits) for edits in ([weight], [words], [weight, words])]
    assert ask(apply_edits(model, [])) == ask(model) == model.revision  # no edits: the model itself
    assert len(asked) == 1
    assert [ask(view) for view in views] == [view.revision for view in views]
    assert len(asked) == 4
    assert ask(apply_edits(model, [weight])) == views[0].revision
    assert len(asked) == 4


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
