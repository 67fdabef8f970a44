"""MEMIT: rewrite many facts at once by changes spread over several layers.

Meng et al. 2023, section 4.3, equations 14, 19 and 20 (arXiv:2210.07229).  At each layer the change is the ridge-like
least-squares solution that maps the new keys to what is missing and the old keys to nothing,

    delta = R K^T (lambda C + K K^T)^-1,    C = E[k k^T] over old keys,

with K the keys of all requests and R the residuals, as in `editing.methods.spread`.  lambda is the weight of the old
keys against one new key.  For one request delta is s x ROME's with s = k^T C^-1 k / (lambda + k^T C^-1 k).  Since
E[k^T C^-1 k] = d_mlp, the setting gives lambda in units of d_mlp, so that one value means the same at any width.  The
paper's are 3.1 (GPT-2 XL, 20,000) and 0.9 (GPT-J, 15,000).

`compat="memit-code"` is the search of the public code (kmeng01/memit at `memit/compute_z.py`): an absolute learning
rate, the KL at the subject's token of "{subject} is a", the decay |delta| / |h|^2 and the clamp 0.75 |h|, with h what
the last block wrote at the subject.

Symbols: K keys [d_mlp, n], R [d_model, n], lambda moment_weight x d_mlp, C Moment.matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from editing.configs import check_config, with_constants
from editing.edit import Diagnostic
from editing.method import Task
from editing.methods.spread import SpreadConfig, SpreadMethod, Update
from editing.parts.moments import Moment, factor, regular

_PUBLIC_CODE = {
    "steps": 20,
    "learning_rate": 0.5,
    "prefixes": 5,
    "kl_factor": 0.0625,
    "stop_loss": 0.05,
    "weight_decay": 0.5,
    "norm_limit": 0.75,
    "ridge": 0.0,
    "moment_weight": 3.125,
}
"""Constants of the public code's hparams for GPT-2 XL, where 3.125 x d_mlp is its 20,000.  C is not among them: see
`editing.methods.rome`."""


@with_constants({"memit-code": _PUBLIC_CODE})
@dataclass(frozen=True, kw_only=True)
class MemitConfig(SpreadConfig):
    """Settings of MEMIT.

    With `compat="memit-code"` every setting that is not given takes the public code's constant.

    Raises:
        ValueError: if a value is out of its range.
    """

    moment_weight: float = field(
        default=0.1,
        metadata={
            "help": "Weight of the old keys against the new, lambda, in units of the keys' width; more protects more "
            "and writes less.",
            "min": 1e-9,
            "max": 1e6,
        },
    )

    compat: Literal["memit", "memit-code"] = field(
        default="memit",
        metadata={
            "help": "Settings relative to what the model has, or all of the public code, its constants included.",
            "choices": ("memit", "memit-code"),
        },
    )

    def __post_init__(self) -> None:
        check_config(self)


def memit_directions(keys: torch.Tensor, moment: torch.Tensor, weight: float) -> torch.Tensor:
    """K^T (weight C + K K^T)^-1: [d_mlp, n], [d_mlp, d_mlp] -> [n, d_mlp], float64.

    Raises:
        ValueError: if the matrix cannot be inverted.
    """
    system = weight * moment.double() + keys @ keys.T
    return torch.cholesky_solve(keys, factor(system)).T


class MemitMethod(SpreadMethod):
    """`METHODS["memit"]`."""

    name = "memit"
    title = "MEMIT"
    config_type = MemitConfig

    def update(self, task: Task, moments: dict[int, Moment]) -> Update:
        """MEMIT's update."""
        return _Memit(task.config, moments)


class _Memit:
    def __init__(self, config: MemitConfig, moments: dict[int, Moment]) -> None:
        self.config, self.moments = config, moments

    def directions(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        moment = regular(self.moments[layer], self.config.ridge)
        return memit_directions(keys, moment, self.config.moment_weight * len(moment))

    def diagnostics(self) -> list[Diagnostic]:
        width = len(next(iter(self.moments.values())).matrix)
        help_text = "Weight of the old keys against one new key, lambda."
        return [Diagnostic("moment weight", self.config.moment_weight * width, "keys", help_text)]
