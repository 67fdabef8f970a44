"""From a trained editor to an edit: what MEND, KE and SERAC share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editing.edit import Diagnostic
from editing.method import Change, Method, Task
from editing.ops import Op, WeightDelta
from editing.train.artefact import Artefact, artefact_for
from editing.train.factors import Factors, gradient_factors, mlp_weights
from editing.train.forward import Forward
from editing.train.rows import Encoder, LowRank, Rows
from facts import EditRequest, Fact
from models import LanguageModel, as_out_in


def artefact_setting() -> Any:
    """The setting that every trained editor has."""
    return field(default="", metadata={"help": "Folder of the trained editor; empty for the one Engram comes with."})


class LearnedMethod(Method):
    """A method with a trained editor: an edit takes one pass through it."""

    batch = True
    needs = frozenset({"trained_editor"})
    stage = "solve"

    def change(self, task: Task) -> Change:
        """What the trained editor proposes.

        Raises:
            FileNotFoundError: if there is no trained editor; the sentence says how to train one.
            ValueError: if the editor is not whole or not for this model, or a request cannot be met.
            Cancelled: if the watch says to stop.
        """
        artefact = artefact_for(task.config.artefact, self.name, task.base.revision)
        task.watch.step(50, 100)
        ops, numbers = self.proposed(task, artefact)
        return Change(ops=ops, diagnostics=numbers)

    def refuse_again(self, task: Task) -> None:
        """Refuse a fact that an edit of this method has already rewritten in the model.

        The editors are trained on the unedited model.  On the bundled one a second edit of a fact gave its answer in 3
        of 5 cases with MEND, and with KE no other fact was left.

        Raises:
            ValueError: if so.
        """
        mine = [request.fact for edit in task.active if edit.method == self.name for request in edit.requests]
        for fact in (request.fact for request in task.requests):
            if any(fact.prompt == old.prompt or _key(fact) == _key(old) != ("", "") for old in mine):
                raise ValueError(
                    f"an active {self.title} edit already rewrites {fact.prompt!r}, and its editor was trained on the "
                    "unedited model: a second one of the same fact breaks down; remove the first, or choose another "
                    "method"
                )

    @abstractmethod
    def proposed(self, task: Task, artefact: Artefact) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """The edit's operations and diagnostics."""


def _key(fact: Fact) -> tuple[str, str]:
    """Subject and relation; two empty texts where the relation is not known."""
    return (fact.subject, fact.relation) if fact.relation else ("", "")


@dataclass(frozen=True, eq=False)
class AnswerGradients:
    """Requests as rows, with the gradients of their answers."""

    forward: Forward
    rows: Rows
    """[request] rows: prompt and new answer."""
    factors: dict[str, Factors]

    def right(self, changes: Mapping[str, LowRank]) -> Tensor:
        """[request] bool: whether the new answer is the greedy one with the request's own change."""
        return self.rows.right(self._log_probs(changes))

    @torch.no_grad()
    def _log_probs(self, changes: Mapping[str, LowRank]) -> Tensor:
        with self.forward.changed(changes):
            return self.forward.log_probs(self.rows)


def read_gradients(model: LanguageModel, requests: Sequence[EditRequest], layers: Sequence[int]) -> AnswerGradients:
    """Read the gradients of the new answers in the MLP weights of the given layers.

    Raises:
        ValueError: if there is no request, or one does not fit the context.
    """
    forward = Forward(model)
    rows = Encoder(model).rows([(request.fact.prompt, request.target_new) for request in requests])
    return AnswerGradients(forward, rows, gradient_factors(forward, rows, mlp_weights(model, layers)))


def scaled(changes: Mapping[str, LowRank], factors: Tensor) -> dict[str, LowRank]:
    """Multiply every request's change by its factor [request]."""
    return {name: LowRank(factors[:, None, None] * change.rows, change.cols) for name, change in changes.items()}


def diagnostics(
    model: LanguageModel, answers: AnswerGradients, deltas: Sequence[WeightDelta], artefact: Artefact
) -> tuple[Diagnostic, ...]:
    """Size of the change, and how many edits the editor was trained to sum."""
    n, trained_for = answers.rows.n_rows, max(artefact.settings["batch_sizes"])
    sizes = [delta.norm / float(_weight(model, delta.name).norm()) for delta in deltas]
    warning = ""
    if n > trained_for:
        warning = (
            f"{n} edits were summed, but the editor was trained for sums of at most {trained_for}; larger sums "
            "break the model"
        )
    return (
        Diagnostic("relative change", max(sizes), "|Δ| / |W|", "Of the weight that changes most."),
        Diagnostic("rank", float(max(delta.cols.shape[0] for delta in deltas)), "", "Of the widest change."),
        Diagnostic("edits summed", float(n), "", f"Trained for up to {trained_for}.", warning),
        Diagnostic(
            "editor's validation", float(artefact.validation["score"]), "score", f"Editor {artefact.digest[:12]}."
        ),
    )


def _weight(model: LanguageModel, name: str) -> Tensor:
    return as_out_in(model.module.get_submodule(name.rpartition(".")[0]), model.weight(name))
