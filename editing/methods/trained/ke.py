"""KE, KnowledgeEditor: a trained hypernetwork reads the edit's words and gates its gradient.

De Cao et al. 2021 (arXiv:2104.08164).  The words "{old} >> {new} || {prompt}" decide, for each weight, which of its
entries may follow the gradient of the new answer's NLL and how far (`editing.train.editors.ke_network`):

    delta W = sigmoid(eta) (grad_W L * a + b),    a and b of rank one                      (section 3.3).

With `loop` above 1 the same change is added again until the model gives the new answer, as the paper does at test time
("+loop").  This is a line search along one direction, since gradient and condition are not computed again.  Edits of a
batch are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editing.configs import check_config
from editing.edit import Diagnostic
from editing.method import Task
from editing.methods.trained.learned import (
    AnswerGradients,
    LearnedMethod,
    artefact_setting,
    diagnostics,
    read_gradients,
    scaled,
)
from editing.ops import Op
from editing.train.artefact import Artefact
from editing.train.editors.ke_network import KeNetwork, condition_ids, embed_conditions
from editing.train.factors import weight_shapes
from editing.train.rows import LowRank, weight_deltas


@dataclass(frozen=True)
class KeConfig:
    """Settings of KE; all others were fixed in training.

    Raises:
        ValueError: if a value is out of its range.
    """

    loop: int = field(
        default=1,
        metadata={
            "help": "Most times the change is added until the model gives the new answer; 5 in the paper's +loop.",
            "min": 1,
            "max": 20,
        },
    )
    artefact: str = artefact_setting()

    def __post_init__(self) -> None:
        check_config(self)


def ke_network(shapes: Mapping[str, tuple[int, int]], d_model: int, artefact: Artefact) -> KeNetwork:
    """The trained network."""
    settings = artefact.settings
    network = KeNetwork(shapes, d_model, int(settings["hidden"]), int(settings["condition"]))
    network.load_state_dict(dict(artefact.tensors))
    return network.eval().requires_grad_(False)


def repeats(answers: AnswerGradients, changes: Mapping[str, LowRank], most: int) -> Tensor:
    """How often each request's change is added until its answer is the greedy one, at most `most` times: [request]."""
    counts = torch.ones(answers.rows.n_rows)
    for _ in range(most - 1):
        wrong = ~answers.right(scaled(changes, counts))
        if not wrong.any():
            break
        counts = counts + wrong
    return counts


class KeMethod(LearnedMethod):
    """`METHODS["ke"]`."""

    name = "ke"
    title = "KE"
    family = "meta-learning"
    config_type = KeConfig
    needs = frozenset({"trained_editor", "target_old"})

    def proposed(self, task: Task, artefact: Artefact) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """As `LearnedMethod.proposed`.

        Raises:
            ValueError: if a request has no old answer, or KE has rewritten its fact before.
        """
        self.refuse_again(task)
        model, requests = task.model, task.requests
        for request in requests:
            if not request.fact.target_true.strip():
                raise ValueError(f"KE also reads the old answer; give the true answer of {request.fact.prompt!r}")
        answers = read_gradients(model, requests, artefact.settings["layers"])
        network = ke_network(weight_shapes(model, tuple(answers.factors)), model.d_model, artefact)
        conditions = [condition_ids(model, r.fact.target_true, r.target_new, r.fact.prompt) for r in requests]
        changes = network(answers.factors, *embed_conditions(model, conditions))
        changes = scaled(changes, torch.full((len(requests),), artefact.scale))
        counts = repeats(answers, changes, task.config.loop)
        deltas = weight_deltas(scaled(changes, counts))
        repeated = Diagnostic("repeats", float(counts.mean()), "", "How often a change was added, mean over requests.")
        return deltas, (*diagnostics(model, answers, deltas, artefact), repeated, *_earlier(task))


def _earlier(task: Task) -> list[Diagnostic]:
    """KE edits already in the model, where there are some: on the bundled one a second left no other fact of 24."""
    n = sum(edit.method == KeMethod.name for edit in task.active)
    warning = (
        "KE's editor was trained on the unedited model, and a second KE edit on top of another is known to break the "
        "model; choose another method for more than one fact, such as memit"
    )
    return [Diagnostic("edits below", float(n), "", "KE edits already in the model.", warning)] if n else []
