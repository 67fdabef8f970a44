"""MEND: a trained network turns the gradient of an edit into a better edit.

Mitchell et al. 2022 (arXiv:2110.11309).  The gradient of the new answer's NLL with respect to a weight is a sum of
outer products over tokens, sum_t d_t x_t^T; small networks (`editing.train.editors.mend_network`) map each (x_t, d_t)
to (x~_t, d~_t), and the weight changes by

    delta W = -lr sum_t d~_t x~_t^T                                                          (section 3.1, equation 3).

Edits of a batch are computed one by one on the same model and summed; the network is trained for sums of up to some
number of edits (`python -m editing.train mend`).  Making an edit takes one backward pass and one pass of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from editing.configs import check_config
from editing.edit import Diagnostic
from editing.method import Task
from editing.methods.trained.learned import LearnedMethod, artefact_setting, diagnostics, read_gradients, scaled
from editing.ops import Op
from editing.train.artefact import Artefact
from editing.train.editors.mend_network import MendNetwork
from editing.train.factors import weight_shapes
from editing.train.rows import weight_deltas


@dataclass(frozen=True)
class MendConfig:
    """Settings of MEND; all others were fixed in training.

    Raises:
        ValueError: if a value is out of its range.
    """

    scale: float = field(
        default=1.0,
        metadata={"help": "Factor on the change; 1 is the factor chosen in training.", "min": 0.0, "max": 10.0},
    )
    artefact: str = artefact_setting()

    def __post_init__(self) -> None:
        check_config(self)


def mend_network(shapes: Mapping[str, tuple[int, int]], artefact: Artefact) -> MendNetwork:
    """The trained network in evaluation mode, so that its statistics do not change."""
    network = MendNetwork(shapes, int(artefact.settings["rank"]))
    network.load_state_dict(dict(artefact.tensors))
    return network.eval().requires_grad_(False)


class MendMethod(LearnedMethod):
    """`METHODS["mend"]`."""

    name = "mend"
    title = "MEND"
    family = "meta-learning"
    config_type = MendConfig

    def proposed(self, task: Task, artefact: Artefact) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """As `LearnedMethod.proposed`.

        Raises:
            ValueError: if MEND has rewritten a request's fact before.
        """
        self.refuse_again(task)
        answers = read_gradients(task.model, task.requests, artefact.settings["layers"])
        network = mend_network(weight_shapes(task.model, tuple(answers.factors)), artefact)
        scale = torch.full((len(task.requests),), task.config.scale * artefact.scale)
        deltas = weight_deltas(scaled(network(answers.factors), scale))
        return deltas, diagnostics(task.model, answers, deltas, artefact)
