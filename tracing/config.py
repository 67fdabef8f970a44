"""The settings of a causal trace."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal, get_args

from tracing.sites import SITES, SeveredSite, TraceSite

WindowCentre = Literal["paper", "rome-code"]
Corruption = Literal["gaussian", "gaussian_fixed", "uniform", "multivariate", "token", "zero", "mean"]
Direction = Literal["denoising", "noising"]

CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
DETERMINISTIC: frozenset[Corruption] = frozenset({"token", "zero", "mean"})
"""Corruptions without randomness, for which one corrupted run is enough."""


@dataclass(frozen=True)
class TraceConfig:
    """How to corrupt and what to restore; the defaults are Meng et al. 2022, section 2.1.

    Raises:
        ValueError: naming the field, its value and what was expected.
    """

    site: TraceSite = field(default="resid_post", metadata={"help": "which state is restored"})
    window: int = field(default=1, metadata={"help": "layers restored together around each layer (the paper: 10)"})
    window_centre: WindowCentre = field(
        default="paper",
        metadata={"help": "even windows of w layers: the paper's l-w/2+1..l+w/2, or its code's l-w/2..l+w/2-1"},
    )
    noise: float = field(
        default=3.0, metadata={"help": "x std of the subject embeddings; absolute for gaussian_fixed", "min": 0.0}
    )
    samples: int = field(default=10, metadata={"help": "noise draws, the same in every cell", "min": 1, "max": 1000})
    seed: int = field(default=0, metadata={"help": "of the noise", "min": 0})
    batch_size: int | None = field(
        default=None,
        metadata={"help": "rows in one forward pass, as many as fit when left out; changes no result", "min": 1},
    )
    corruption: Corruption = field(
        default="gaussian", metadata={"help": "what is done to the subject's embeddings (tracing/corruption.py)"}
    )
    additive: bool = field(default=True, metadata={"help": "noise is added to the embeddings, or else replaces them"})
    counterfactual: str = field(
        default="", metadata={"help": "for the corruption 'token': another subject of as many tokens"}
    )
    direction: Direction = field(
        default="denoising",
        metadata={
            "help": "clean states into the corrupted run (sufficient?), or corrupted into the clean (necessary?)"
        },
    )
    severed: SeveredSite | None = field(
        default=None,
        metadata={"help": "module held, at the restored position and in every layer, at what it is without the patch"},
    )
    """If the module is also the restored site, its restored layers keep the restored value and the others are held.
    The public code of ROME holds all of them, so that such a map is 0 everywhere."""
    against: str = field(
        default="", metadata={"help": "another answer, for the logit difference; 'token' finds one by itself"}
    )

    def __post_init__(self) -> None:
        _check_choice("site", self.site, SITES)
        _check_choice("window centre", self.window_centre, get_args(WindowCentre))
        _check_choice("corruption", self.corruption, CORRUPTIONS)
        _check_choice("direction", self.direction, get_args(Direction))
        if self.severed is not None:
            _check_choice("severed module", self.severed, get_args(SeveredSite))
        _check_int("window", self.window, 1, 1000)
        _check_int("samples", self.samples, 1, 1000)
        _check_int("seed", self.seed, 0, 2**63 - 1)
        if self.batch_size is not None:
            _check_int("batch_size", self.batch_size, 1, 1_000_000)
        number = isinstance(self.noise, int | float) and not isinstance(self.noise, bool)
        if not (number and 0 <= self.noise <= sys.float_info.max):
            raise ValueError(f"noise is {self.noise!r}; expected standard deviations, 0 or more (usually 3)")
        if not isinstance(self.additive, bool):
            raise ValueError(f"additive is {self.additive!r}; expected True or False")
        _check_text("counterfactual", self.counterfactual)
        _check_text("against", self.against)
        if (self.corruption == "token") != bool(self.counterfactual.strip()):
            raise ValueError(
                f"corruption is {self.corruption!r} and counterfactual {self.counterfactual!r}; "
                "replacing tokens needs another subject, and nothing else takes one"
            )

    @property
    def n_samples(self) -> int:
        """Corrupted runs: `samples`, or one if the corruption is not random."""
        return 1 if self.corruption in DETERMINISTIC else self.samples

    def layers_of(self, layer: int, n_layers: int) -> range:
        """The layers restored for the cell of `layer`, clipped to the model.

        For w = 10 the paper restores l-4..l+5 and its published code l-5..l+4; odd windows are centred in both.
        """
        below = (self.window - 1) // 2 if self.window_centre == "paper" else self.window // 2
        return range(max(0, layer - below), min(n_layers, layer - below + self.window))


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; expected a text")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
