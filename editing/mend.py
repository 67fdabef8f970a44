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
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch

from editing.configs import check_config
from editing.edit import Cancelled, Edit, EditCancelled, Progress
from editing.train.artefact import Artefact
from editing.train.factors import mlp_weights, weight_shapes
from editing.train.mend_network import MendNetwork
from editing.train.proposal import artefact_for, ask, diagnostics, scaled, weight_deltas
from facts import EditRequest
from models import LanguageModel


@dataclass(frozen=True)
class MendConfig:
    """Settings of MEND; everything else was settled when its network was trained.

    Raises:
        ValueError: if a value is out of its range.
    """

    scale: float = field(
        default=1.0, metadata={"help": "Factor on the change; 1 is what was trained.", "min": 0.0, "max": 10.0}
    )
    artefact: str = field(
        default="", metadata={"help": "Folder of the trained editor; empty for the one of the bundled model."}
    )

    def __post_init__(self) -> None:
        check_config(self)


def mend_network(shapes: Mapping[str, tuple[int, int]], artefact: Artefact) -> MendNetwork:
    """The trained network, ready to edit: its statistics stay as they are."""
    network = MendNetwork(shapes, int(artefact.settings["rank"]))
    network.load_state_dict(dict(artefact.tensors))
    return network.eval().requires_grad_(False)


class MendMethod:
    """`METHODS["mend"]`."""

    name = "mend"
    title = "MEND"
    family = "meta-learning"
    config_type = MendConfig
    batch = True
    needs = frozenset({"trained_editor"})

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: MendConfig,
        *,
        active: Sequence[Edit] = (),
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Edit:
        """The edit, computed and not applied: the model is left bit for bit as it was.

        Args:
            progress: called with (percent done, 100).

        Raises:
            FileNotFoundError: if there is no trained editor; the sentence says how to train one.
            ValueError: if the editor is not whole or not for this model, or a request cannot be met.
            EditCancelled: when `cancelled` said so.
        """
        began = perf_counter()
        artefact = artefact_for(config.artefact, self.name, model, active)
        layers = artefact.settings["layers"]
        network = mend_network(weight_shapes(model, mlp_weights(model, layers)), artefact)
        asked = ask(model, requests, layers)
        if cancelled is not None and cancelled():
            raise EditCancelled
        if progress is not None:
            progress(60, 100)
        changes = scaled(network(asked.factors), torch.full((len(requests),), config.scale))
        deltas = weight_deltas(changes)
        edit = Edit(self.name, tuple(requests), config, deltas, model.revision)
        found = diagnostics(model, asked, deltas, artefact, max(artefact.settings["batch_sizes"]))
        if progress is not None:
            progress(100, 100)
        return replace(edit, diagnostics=found, seconds={"solve": perf_counter() - began})
