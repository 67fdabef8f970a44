"""SERAC: edits are stored as text, and a second model answers the prompts in their scope.

Mitchell et al. 2022 (arXiv:2206.06520).  A scope classifier compares a prompt with every stored edit,
s_i = exp(-|E(prompt_i) - E(prompt)|^2); if the best s exceeds a threshold, the counterfactual model C answers behind
that edit, otherwise the base answers untouched:

    answer(x) = C("New fact: {prompt_i} {new_i}." x)    if max s_i > threshold, i the argmax
                base(x)                                 otherwise.

E and C are trained beforehand (`python -m editing.train serac`).  No weight of the base changes; C is the base with a
low-rank change.  `subject_gate`, which the paper does not have, also requires the stored subject in the prompt, letter
by letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from editing.applied.router import SeracRouter
from editing.configs import check_config
from editing.edit import Diagnostic, Edit
from editing.method import Task
from editing.methods.trained.learned import LearnedMethod, artefact_setting
from editing.ops import Op, RouteOp
from editing.train.artefact import Artefact
from editing.train.editors.serac_trainer import context_ids


@dataclass(frozen=True)
class SeracConfig:
    """Settings of SERAC.

    Raises:
        ValueError: if a value is out of its range.
    """

    threshold: float = field(
        default=0.0,
        metadata={
            "help": "Score above which a prompt is in scope; 0 takes the calibrated threshold.",
            "min": 0.0,
            "max": 1.0,
        },
    )
    subject_gate: bool = field(
        default=False, metadata={"help": "Also require the edit's subject in the prompt; not in the paper."}
    )
    artefact: str = artefact_setting()

    def __post_init__(self) -> None:
        check_config(self)


class SeracMethod(LearnedMethod):
    """`METHODS["serac"]`."""

    name = "serac"
    title = "SERAC"
    family = "memory"
    config_type = SeracConfig

    def proposed(self, task: Task, artefact: Artefact) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """As `LearnedMethod.proposed`."""
        base, requests, config = task.base, task.requests, task.config
        router = SeracRouter(artefact)
        op = RouteOp(
            keys=router.keys(base, [base.encode(request.fact.prompt) for request in requests]).cpu(),
            contexts=tuple(tuple(context_ids(base, request.fact, request.target_new)) for request in requests),
            subjects=tuple(request.fact.subject if config.subject_gate else "" for request in requests),
            threshold=config.threshold or router.threshold,
            editor=router.digest,
        )
        return (op,), _diagnostics(op, task.active)


def _diagnostics(op: RouteOp, active: Sequence[Edit]) -> tuple[Diagnostic, ...]:
    """The threshold and the size of the memory."""
    before = sum(len(other.contexts) for edit in active for other in edit.ops if isinstance(other, RouteOp))
    return (
        Diagnostic("threshold", op.threshold, "score", "Prompts with a higher score are in scope."),
        Diagnostic("memory", float(before + len(op.contexts)), "edits", "Stored edits, the active ones included."),
    )
