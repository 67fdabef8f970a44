"""What every editing method is: its name and settings, one step of its own, and the same frame around that step.

`Method.compute` checks the requests, runs the method's own `change` and turns the result into an `Edit` with the
probabilities of the new answers before and after.  A new method is a subclass with `change`, and one line in
`editing.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any, ClassVar

import torch

from editing.applied.view import EditedModel, apply_edits
from editing.edit import Diagnostic, Edit, LossStep
from editing.ops import Op
from editing.parts.answers import AnswerRow, new_answers, probabilities
from editing.parts.diagnosis import answer_diagnostics, remedy_for
from editing.parts.suggest import suggest_layers
from editing.requests import check_batch, check_layer, check_single
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from models import LanguageModel

FAMILIES = ("locate-then-edit", "meta-learning", "memory", "in-context", "fine-tuning")
NEEDS = frozenset({"subject", "target_old", "statistics", "trained_editor", "demonstrations"})


@dataclass(frozen=True, eq=False)
class Task:
    """What a method is given: checked requests, and the model to rewrite them in."""

    model: LanguageModel
    """The base, or the view of it with the edits in `active`."""
    requests: tuple[EditRequest, ...]
    """One, unless the method takes batches."""
    config: Any
    active: tuple[Edit, ...] = ()
    """The edits that are already in `model`, oldest first."""
    watch: Watch = UNWATCHED

    @property
    def request(self) -> EditRequest:
        """The first request: the only one of a method without batches."""
        return self.requests[0]

    @property
    def base(self) -> LanguageModel:
        """The unedited model."""
        return self.model.base if isinstance(self.model, EditedModel) else self.model

    @cached_property
    def rows(self) -> list[AnswerRow]:
        """Each request's prompt with its new answer, tokenised.

        Raises:
            ValueError: if one is too long for the model.
        """
        return new_answers(self.model, self.requests)

    @cached_property
    def before(self) -> list[float]:
        """Probability of each new answer in `model`."""
        return probabilities(self.model, self.rows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Change:
    """What a method made of a task."""

    ops: tuple[Op, ...]
    losses: tuple[LossStep, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage; empty: all of it is the method's `stage`."""
    keys: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """As `Edit.keys`."""
    diagnostics: tuple[Diagnostic, ...] = ()
    """The method's own numbers, shown before those of the answers."""
    more: tuple[Diagnostic, ...] = ()
    """And those shown behind them."""
    p_before: Sequence[float] = ()
    """Probability of each new answer in the model, where the method has measured it; else `Task.before`."""
    p_found: Sequence[float] = ()
    """The same with the value put in place by hand, where the method searches one."""


def settled(model: LanguageModel, config: Any) -> Any:
    """The config with the layers that were not given and have a default.

    That is a share of the model's depth where the field names one, else what `suggest_layers` says: its last layer, and
    as many layers as it names.
    """
    knobs = config.__dataclass_fields__
    missing = [name for name in ("layer", "depth") if name in knobs and getattr(config, name) is None]
    if not missing:
        return config
    if "share" in knobs["layer"].metadata:
        return replace(config, layer=int(knobs["layer"].metadata["share"] * model.n_layers))
    suggested = suggest_layers(model)
    usual = {"layer": suggested[-1], "depth": len(suggested)}
    return replace(config, **{name: usual[name] for name in missing})


class Method(ABC):
    """An editing method.  Subclasses name themselves and implement `change`."""

    name: str
    """Key in `METHODS`."""
    title: str
    """As the papers write it."""
    family: str
    """One of `FAMILIES`."""
    config_type: type[Any]
    """A frozen dataclass whose fields carry `help`, `min`, `max` and `choices` as metadata."""
    batch: bool = False
    """Whether one edit may hold several requests."""
    needs: frozenset[str] = frozenset()
    """What it must be given besides a prompt and a new answer; some of `NEEDS`."""
    stage: ClassVar[str] = "training"
    """What its time is spent on."""

    @abstractmethod
    def change(self, task: Task) -> Change:
        """Compute the change; nothing is written to the model.

        Raises:
            ValueError: if a request or setting cannot be met; one sentence.
            FileNotFoundError: if a file that a setting names is not there.
            Cancelled: if the watch says to stop.
        """

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: Any,
        *,
        active: Sequence[Edit] = (),
        watch: Watch = UNWATCHED,
    ) -> Edit:
        """The edit, computed and not applied: the model is left bit for bit as it was.

        Args:
            model: the base, or the view of it with the edits in `active`.
            requests: what to rewrite; one, unless `batch`.
            active: the edits that are already in `model`, oldest first.
            watch: told how far it is; its stages are named.

        Raises:
            ValueError, FileNotFoundError, Cancelled: as `change`; also if the layer is out of range, the model cannot
                be edited, or the requests contradict each other.
        """
        config = settled(model, config)
        if hasattr(config, "layer"):
            check_layer(model, config.layer)
        if self.batch:
            check_batch(model, requests)
        else:
            check_single(model, requests, self.title)
        began = perf_counter()
        task = Task(model, tuple(requests), config, tuple(active), watch)
        change = self.change(task)
        edit = Edit(
            self.name,
            task.requests,
            config,
            change.ops,
            model.revision,
            losses=change.losses,
            seconds=change.seconds or {self.stage: perf_counter() - began},
            keys=change.keys,
        )
        answers = self.answers(task, change, edit)
        watch.step(100, 100)
        return replace(edit, diagnostics=(*change.diagnostics, *answers, *change.more))

    def answers(self, task: Task, change: Change, edit: Edit) -> list[Diagnostic]:
        """How likely the new answers are before and after."""
        before = change.p_before or task.before
        after = probabilities(apply_edits(task.model, [edit]), task.rows)
        remedy = remedy_for(task.config, task.model.n_layers)
        return answer_diagnostics(task.requests, before, after, change.p_found, remedy=remedy)
