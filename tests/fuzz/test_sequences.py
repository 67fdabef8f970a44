"""Whatever is done to a model, in whatever order: its own weights stay as they were, and an undo is exact."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app import workflow
from editing import Edit, apply_edits
from editing.applied.view import EditedModel
from facts.branches import Branches
from facts.watch import Cancelled, Watch
from models import LanguageModel
from tests.editing import made
from tests.fuzz.settings import CASES, cases
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
BASE = MODEL.weights_digest()
METHODS: dict[str, dict[str, Any]] = {
    "r-rome": {"layer": 1, "second_moment": "identity", "steps": 2, "prefixes": 0},
    "ft": {"layer": 1, "steps": 2},
    "grace": {"layer": 1, "steps": 2},
    "ice": {"reserve": 16},
}


def logits(model: LanguageModel | EditedModel) -> torch.Tensor:
    """[row, pos, d_vocab] of two prompts."""
    return model.logits(made.IDS)


UNEDITED = logits(MODEL)


class Counting:
    """A watch that interrupts the n-th step; 0 interrupts none."""

    def __init__(self, at: int) -> None:
        self._at, self.steps = at, 0

    @property
    def watch(self) -> Watch:
        return Watch(cancelled=self._cancelled)

    def _cancelled(self) -> bool:
        self.steps += 1
        return self.steps == self._at


class Reader(RuleBasedStateMachine):
    """One reader's actions: apply, interrupt, fail, undo, switch branches."""

    @initialize()
    def begin(self) -> None:
        self.edits: dict[str, Edit] = {}
        self.branches = Branches({"main": ()}, "main")

    def _apply(self, edit: Edit) -> None:
        name = str(len(self.edits))
        self.edits[name] = edit
        self.branches = self.branches.added(name)

    def _active(self) -> list[Edit]:
        return [self.edits[name] for name in self.branches.edits()]

    @rule(layer=st.integers(0, MODEL.n_layers - 1), seed=st.integers(0, 99), kind=st.sampled_from(["low", "dense"]))
    def apply(self, layer: int, seed: int, kind: str) -> None:
        op = {"low": made.low_rank, "dense": made.dense}[kind](MODEL, layer, seed)
        self._apply(made.made(MODEL, op))

    @rule(method=st.sampled_from(sorted(METHODS)), at=st.integers(1, 6))
    def interrupt(self, method: str, at: int) -> None:
        with suppress(Cancelled):
            workflow.edit(MODEL, made.REQUEST, method, METHODS[method], watch=Counting(at).watch)

    @rule(layer=st.sampled_from([-1, 99]))
    def fail(self, layer: int) -> None:
        with pytest.raises(ValueError, match="layer"):
            workflow.edit(MODEL, made.REQUEST, "r-rome", {**METHODS["r-rome"], "layer": layer})

    @rule()
    def fail_to_apply(self) -> None:
        broken = made.made(MODEL, made.low_rank(tiny_model("gpt_neo"), 0, 0))
        with pytest.raises(ValueError, match=r"parameter|shape"):
            apply_edits(MODEL, [*self._active(), broken])

    @precondition(lambda self: self.branches.edits())
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        self.branches = self.branches.without(data.draw(st.sampled_from(self.branches.edits())))

    @rule(name=st.sampled_from(["main", "a", "b"]))
    def switch(self, name: str) -> None:
        if name not in self.branches.by_name:
            self.branches = self.branches.put(name, self.branches.edits())
        self.branches = self.branches.switched(name)

    @invariant()
    def the_base_has_not_changed(self) -> None:
        assert MODEL.weights_digest() == BASE

    def teardown(self) -> None:
        if self._active():
            assert not torch.equal(logits(apply_edits(MODEL, self._active())), UNEDITED)
        assert torch.equal(logits(MODEL), UNEDITED)
        assert MODEL.weights_digest() == BASE


TestReader = Reader.TestCase
TestReader.settings = settings(
    cases(40), max_examples=1000 if CASES else 12, stateful_step_count=12, deadline=None, print_blob=True
)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_edit_interrupted_at_any_step_leaves_nothing(method: str) -> None:
    at, ended = 0, False
    while not ended:
        at += 1
        counting = Counting(at)
        try:
            workflow.edit(MODEL, made.REQUEST, method, METHODS[method], watch=counting.watch)
            ended = True
        except Cancelled:
            assert MODEL.weights_digest() == BASE
    assert counting.steps == at - 1
    assert torch.equal(logits(MODEL), UNEDITED)


def test_a_trace_interrupted_at_any_step_leaves_nothing() -> None:
    fact, at, ended = made.REQUEST.fact, 0, False
    whole = workflow.locate(MODEL, fact, samples=2)
    while not ended:
        at += 1
        try:
            again = workflow.locate(MODEL, fact, samples=2, watch=Counting(at).watch)
            ended = True
        except Cancelled:
            assert torch.equal(logits(MODEL), UNEDITED)
    assert at > 2
    assert (again.main.restored == whole.main.restored).all()
    assert MODEL.weights_digest() == BASE
