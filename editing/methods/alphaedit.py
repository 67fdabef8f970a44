"""AlphaEdit: MEMIT's batch confined to directions in which the old keys have nothing.

Fang et al. 2025, section 3, equations 12 to 14 (ICLR 2025, arXiv:2410.02355).  C = U S U^T; P = U0 U0^T projects onto
the eigenvectors U0 whose eigenvalues are small.  The change

    delta = R K^T P (K_p K_p^T P + K K^T P + L2 I)^-1

leaves the value of every key in the complement of U0 exactly as it was (delta = delta P).  K_p, the keys of the edits
already in the model, protects those edits.  In the coordinates of U0 the change is

    delta = R K'^T (K_p' K_p'^T + K' K'^T + L2 I)^-1 U0^T,    K' = U0^T K,

where the system is symmetric and small.  K_p comes from the active edits, so undoing one also ends its protection.

The paper's threshold (eigenvalues below 0.02) and L2 (10) are absolute; here both are in units of the mean eigenvalue
of C, so that they carry over between models.  A narrow model has few nearly empty directions.  If a batch of facts
needs more of them than the threshold leaves, the change becomes many times larger than the weight and breaks what it
should keep.  Protection is approximate: E |delta k|^2 over old keys is at most the largest eigenvalue kept times
|delta|^2.

Symbols: U0 basis [d_mlp, r], K keys [d_mlp, n], K_p past [d_mlp, m], R [d_model, n], C Moment.matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from editing.configs import check_config
from editing.edit import Diagnostic, Edit
from editing.method import Task
from editing.methods.spread import SpreadConfig, SpreadMethod, Update
from editing.parts.moments import Moment, factor
from editing.parts.spectrum import spectrum


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(SpreadConfig):
    """Settings of AlphaEdit.

    Raises:
        ValueError: if a value is out of its range.
    """

    null_threshold: float = field(
        default=0.5,
        metadata={
            "help": "Directions with a smaller share of the old keys than this may be changed; in units of the mean "
            "eigenvalue of the second moment.",
            "min": 1e-9,
            "max": 1e6,
        },
    )
    l2: float = field(
        default=10.0,
        metadata={
            "help": "Penalty on the size of the change, in units of the mean eigenvalue of the second moment.",
            "min": 1e-9,
            "max": 1e6,
        },
    )

    def __post_init__(self) -> None:
        check_config(self)


def null_basis(values: torch.Tensor, vectors: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The eigenvectors U0 [d_mlp, r] of C with eigenvalues [r] below `threshold` x the mean.

    Args:
        values, vectors: of C, ascending, [d_mlp] and [d_mlp, d_mlp] (`editing.parts.spectrum`).

    Raises:
        ValueError: if there is none.
    """
    small = values < threshold * values.mean()
    if not bool(small.any()):
        raise ValueError(
            f"every direction has at least {threshold:g} of the mean share of the old keys (the smallest has "
            f"{float(values[0] / values.mean()):.2g}); raise null_threshold or choose another layer"
        )
    return vectors[:, small], values[small]


def alphaedit_directions(keys: torch.Tensor, past: torch.Tensor, basis: torch.Tensor, l2: float) -> torch.Tensor:
    """K'^T (K_p' K_p'^T + K' K'^T + L2 I)^-1 U0^T: [d_mlp, n], [d_mlp, m], [d_mlp, r] -> [n, d_mlp], float64."""
    new, old = basis.T @ keys, basis.T @ past
    system = new @ new.T + old @ old.T + l2 * torch.eye(basis.shape[1], dtype=torch.float64)
    return (basis @ torch.cholesky_solve(new, factor(system))).T


def past_keys(active: Sequence[Edit], name: str, d_mlp: int) -> torch.Tensor:
    """K_p of one weight, [d_mlp, m] float64: keys of the edits already in the model; m may be 0."""
    kept = [edit.keys[name].double().T for edit in active if name in edit.keys]
    return torch.cat([torch.zeros(d_mlp, 0, dtype=torch.float64), *kept], dim=1)


class AlphaEditMethod(SpreadMethod):
    """`METHODS["alphaedit"]`."""

    name = "alphaedit"
    title = "AlphaEdit"
    config_type = AlphaEditConfig

    def update(self, task: Task, moments: dict[int, Moment]) -> Update:
        """AlphaEdit's update, beside the keys of the edits already in the model."""
        names = {layer: task.model.architecture.key_weight_name(layer) for layer in moments}
        past = {layer: past_keys(task.active, name, task.model.d_mlp) for layer, name in names.items()}
        return _AlphaEdit(task.config, moments, past)


class _AlphaEdit:
    def __init__(self, config: AlphaEditConfig, moments: dict[int, Moment], past: dict[int, torch.Tensor]) -> None:
        self.config, self.moments, self.past = config, moments, past
        self.spectra: dict[int, torch.Tensor] = {}
        """Layer -> eigenvalues of the directions it may change."""

    def directions(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        values, vectors = spectrum(self.moments[layer])
        basis, self.spectra[layer] = null_basis(values, vectors, self.config.null_threshold)
        return alphaedit_directions(keys, self.past[layer], basis, self.config.l2 * self._mean(layer))

    def diagnostics(self) -> list[Diagnostic]:
        shares = [float(self.spectra[layer].sum()) / (self._mean(layer) * self._width(layer)) for layer in self.spectra]
        return [
            Diagnostic(
                "free directions",
                float(min(len(values) for values in self.spectra.values())),
                "of the width",
                "Directions the edit may use, in the layer that has fewest.",
            ),
            Diagnostic(
                "old keys there",
                max(shares),
                "share of their energy",
                "The old keys' energy in those directions, which is not protected; of the layer with most.",
            ),
            Diagnostic(
                "protected keys",
                float(max(past.shape[1] for past in self.past.values())),
                "keys",
                "Keys of earlier edits that this one protects.",
            ),
        ]

    def _mean(self, layer: int) -> float:
        return float(self.moments[layer].matrix.double().diagonal().mean())

    def _width(self, layer: int) -> int:
        return len(self.moments[layer].matrix)
