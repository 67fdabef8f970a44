"""KE, KnowledgeEditor: a trained hypernetwork reads the edit's words and gates its gradient.

De Cao et al. 2021 (arXiv:2104.08164).  The words "{old} >> {new} || {prompt}" decide, for each weight, which of its
entries may follow the gradient of the new answer's NLL and how far (`editing.train.ke_network`):

    delta W = sigmoid(eta) (grad_W L * a + b),    a and b of rank one                      (section 3.3).

With `loop` above 1 the same change is added again while the new answer is not yet the model's own, as the paper does at
test time ("+loop"): a line search along one direction, since neither gradient nor condition is computed anew.
Edits of a batch are summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from editing.configs import check_config
from editing.edit import Cancelled, Diagnostic, Edit, EditCancelled, Progress
from editing.train.artefact import Artefact
from editing.train.factors import mlp_weights, weight_shapes
from editing.train.ke_network import KeNetwork, condition_ids, embed_conditions
from editing.train.proposal import Asked, artefact_for, ask, diagnostics, scaled, weight_deltas
from editing.train.rows import LowRank
from facts import EditRequest
from models import LanguageModel


@dataclass(frozen=True)
class KeConfig:
    """Settings of KE; everything else was settled when its network was trained.

    Raises:
        ValueError: if a value is out of its range.
    """

    loop: int = field(
        default=1,
        metadata={
            "help": "Most times the change is added until the new answer is the model's own; 5 in the paper's +loop.",
            "min": 1,
            "max": 20,
        },
    )
    artefact: str = field(
        default="", metadata={"help": "Folder of the trained editor; empty for the one of the bundled model."}
    )

    def __post_init__(self) -> None:
        check_config(self)


def ke_network(shapes: Mapping[str, tuple[int, int]], d_model: int, artefact: Artefact) -> KeNetwork:
    """The trained network."""
    settings = artefact.settings
    network = KeNetwork(shapes, d_model, int(settings["hidden"]), int(settings["condition"]))
    network.load_state_dict(dict(artefact.tensors))
    return network.eval().requires_grad_(False)


def repeats(asked: Asked, changes: Mapping[str, LowRank], most: int) -> Tensor:
    """How often each request's change is added until its answer is the greedy one, at most `most` times: [request]."""
    counts = torch.ones(asked.rows.n_rows)
    for _ in range(most - 1):
        wrong = ~asked.right(scaled(changes, counts))
        if not wrong.any():
            break
        counts = counts + wrong
    return counts


class KeMethod:
    """`METHODS["ke"]`."""

    name = "ke"
    title = "KE"
    family = "meta-learning"
    config_type = KeConfig
    batch = True
    needs = frozenset({"trained_editor", "target_old"})

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: KeConfig,
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
        network = ke_network(weight_shapes(model, mlp_weights(model, layers)), model.d_model, artefact)
        for request in requests:
            if not request.fact.target_true.strip():
                raise ValueError(f"KE reads the old answer too; give the true answer of {request.fact.prompt!r}")
        asked = ask(model, requests, layers)
        if cancelled is not None and cancelled():
            raise EditCancelled
        if progress is not None:
            progress(50, 100)
        conditions = [condition_ids(model, r.fact.target_true, r.target_new, r.fact.prompt) for r in requests]
        changes = network(asked.factors, *embed_conditions(model, conditions))
        counts = repeats(asked, changes, config.loop)
        deltas = weight_deltas(scaled(changes, counts))
        edit = Edit(self.name, tuple(requests), config, deltas, model.revision)
        found = (
            *diagnostics(model, asked, deltas, artefact, max(artefact.settings["batch_sizes"])),
            Diagnostic("repeats", float(counts.mean()), "", "How often a change was added, mean over requests."),
        )
        if progress is not None:
            progress(100, 100)
        return replace(edit, diagnostics=found, seconds={"solve": perf_counter() - began})
