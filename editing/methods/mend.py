"""MEND: a trained network turns the gradient of an edit into a better edit.

Mitchell et al. 2022 (arXiv:2110.11309).  The gradient of the new answer's NLL with respect to a weight is a sum of
outer products over tokens, sum_t d_t x_t^T; small networks (`editing.train.mend_network`) map each (x_t, d_t) to
(x~_t, d~_t), and the weight changes by

    delta W = -lr sum_t d~_t x~_t^T                                                          (section 3.1, equation 3).

Edits of a batch are computed one by one on the same model and summed, which the network is trained for up to some
number (`python -m editing.train mend`).  Nothing is optimised when an edit is made: one backward pass and the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from editing.configs import check_config
from editing.edit import Diagnostic, Edit
from editing.ops import Op
from editing.train.artefact import Artefact
from editing.train.factors import weight_shapes
from editing.train.mend_network import MendNetwork
from editing.train.proposal import LearnedMethod, artefact_setting, ask, diagnostics, scaled, weight_deltas
from facts import EditRequest
from models import LanguageModel


@dataclass(frozen=True)
class MendConfig:
    """Settings of MEND; everything else was settled when its network was trained.

    Raises:
        ValueError: if a value is out of its range.
    """

    scale: float = field(
        default=1.0,
        metadata={"help": "Factor on the change; 1 is what was settled in training.", "min": 0.0, "max": 10.0},
    )
    artefact: str = artefact_setting()

    def __post_init__(self) -> None:
        check_config(self)


def mend_network(shapes: Mapping[str, tuple[int, int]], artefact: Artefact) -> MendNetwork:
    """The trained network, ready to edit: its statistics stay as they are."""
    network = MendNetwork(shapes, int(artefact.settings["rank"]))
    network.load_state_dict(dict(artefact.tensors))
    return network.eval().requires_grad_(False)


class MendMethod(LearnedMethod):
    """`METHODS["mend"]`."""

    name = "mend"
    title = "MEND"
    family = "meta-learning"
    config_type = MendConfig

    def proposed(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: MendConfig,
        artefact: Artefact,
        active: Sequence[Edit],
    ) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """As `LearnedMethod.proposed`."""
        asked = ask(model, requests, artefact.settings["layers"])
        network = mend_network(weight_shapes(model, tuple(asked.factors)), artefact)
        changes = scaled(network(asked.factors), torch.full((len(requests),), config.scale * artefact.scale))
        deltas = weight_deltas(changes)
        return deltas, diagnostics(model, asked, deltas, artefact)
