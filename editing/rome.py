"""ROME: rewrite one fact by a rank-one change of one MLP's down-projection.

Meng et al. 2022, section 3 (arXiv:2202.05262).  The down-projection W maps a key k to a value v = W k + b.  Among all
changes that make it map k* to v*, the one that disturbs the usual keys least is (equation 2)

    delta = (v* - W k* - b) u^T / (u . k*),    u = (C + r I)^-1 k* / |(C + r I)^-1 k*|,    C = E[k k^T].

The default is the corrected form of Gupta et al. 2024 (R-ROME, arXiv:2403.07175): the *same* k*, the mean over
contexts, stands in all three places, so that (W + delta) k* + b = v* holds exactly, with v* = W k* + b + delta_v the
mean of what the search for the value made the MLP write.  `compat="rome-code"` takes the mean key for u but the bare
prompt's key and value in the residual and the denominator, as the public code does; their mismatch breaks models.

Symbols: k* key, v* value, u direction, C moment.matrix, r ridge x mean eigenvalue of C, delta_v values.Value.delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch

from editing.contexts import make_contexts
from editing.diagnosis import diagnose
from editing.edit import Cancelled, Edit, EditCancelled, Progress
from editing.keys import Batch, FactToken, make_batch, mean_key
from editing.moments import Moment, identity, load_or_estimate
from editing.ops import WeightDelta
from editing.values import Compat, LimitReference, Start, Value, ValueSettings, optimise_value, read_start
from editing.view import apply_edits
from facts import EditRequest
from models import LanguageModel, as_out_in
from models.reference.corpus import sample_texts

_ROME_CODE = {
    "steps": 20,
    "learning_rate": 0.5,
    "prefixes": 20,
    "kl_factor": 0.0625,
    "stop_loss": 0.05,
    "weight_decay": 0.5,
    "norm_limit": 4.0,
    "limit_reference": "mlp_out",
    "ridge": 0.0,
}
"""Constants of the public code (github.com/kmeng01/rome at 0874014, hparams for GPT-2 XL)."""


@dataclass(frozen=True)
class RomeConfig:
    """Settings of ROME.

    Defaults that differ from the paper's: a learning rate relative to the residual, since 0.5 falls short in 20 steps
    where the residual is large, and at most 25 steps; a stop at a loss of 0.2 instead of 0.05, which keeps more
    neighbours and loses few paraphrases; 6 contexts instead of 50 and 10,000 tokens instead of 100,000, which score
    the same on small models; a norm limit relative to the residual; no weight decay, because the limit already holds
    the norm and decay keeps the search from the target where MLPs write little.

    With `compat="rome-code"` every field left at its default takes the public code's constant instead.

    Raises:
        ValueError: if a value is out of its range.
    """

    layer: int = field(metadata={"help": "Layer whose MLP is changed, counted from 0.", "min": 0})
    fact_token: FactToken = field(
        default="subject_last",
        metadata={
            "help": "Token of the prompt at which the fact is looked up.",
            "choices": ("subject_last", "subject_first", "last"),
        },
    )
    steps: int = field(default=40, metadata={"help": "Most steps of the search for the value.", "min": 1, "max": 500})
    learning_rate: float = field(
        default=0.1,
        metadata={
            "help": "Of Adam, in the search, in units of the residual's root mean square at the edited token.",
            "min": 1e-4,
            "max": 10.0,
        },
    )
    norm_limit: float = field(
        default=4.0,
        metadata={"help": "Longest change of the value, times the reference norm below.", "min": 0.01, "max": 1000.0},
    )
    limit_reference: LimitReference = field(
        default="residual",
        metadata={
            "help": "What the norm limit is relative to: the residual stream at the edited token, or the MLP's own "
            "output there (the paper; too tight where MLPs write little).",
            "choices": ("residual", "mlp_out"),
        },
    )
    weight_decay: float = field(
        default=0.0,
        metadata={"help": "Penalty on the squared change of the value, relative to the reference norm.", "min": 0.0},
    )
    kl_factor: float = field(
        default=0.0625,
        metadata={"help": "Weight of keeping what the model says the subject is.", "min": 0.0},
    )
    stop_loss: float = field(default=0.2, metadata={"help": "The search stops below this loss.", "min": 0.0})
    prefixes: int = field(
        default=6,
        metadata={
            "help": "Generated texts put before the prompt, so that the edit holds anywhere.",
            "min": 0,
            "max": 50,
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the generated texts.", "min": 0, "max": 2**31 - 1})
    second_moment: Literal["estimate", "identity"] = field(
        default="estimate",
        metadata={
            "help": "Keys the edit should not disturb: estimated from a corpus, or none (C = I).",
            "choices": ("estimate", "identity"),
        },
    )
    moment_tokens: int = field(
        default=20_000, metadata={"help": "Tokens of the corpus used for the second moment.", "min": 100, "max": 10**7}
    )
    ridge: float = field(
        default=1e-4,
        metadata={"help": "Added to the second moment, times its mean eigenvalue, so it can be inverted.", "min": 0.0},
    )
    corpus: str = field(
        default="",
        metadata={"help": "Text file for the second moment, a document a line; empty for the bundled corpus."},
    )
    compat: Compat = field(
        default="r-rome",
        metadata={
            "help": "The corrected form with one key (R-ROME), or what the public ROME code computes.",
            "choices": ("r-rome", "rome-code"),
        },
    )

    def __post_init__(self) -> None:
        if self.compat == "rome-code":
            for knob in fields(self):
                if knob.name in _ROME_CODE and getattr(self, knob.name) == knob.default:
                    object.__setattr__(self, knob.name, _ROME_CODE[knob.name])
        for knob in fields(self):
            _check(knob.name, getattr(self, knob.name), knob.metadata)

    @property
    def value_settings(self) -> ValueSettings:
        """The part of the settings that concerns the search for the value."""
        return ValueSettings(**{knob.name: getattr(self, knob.name) for knob in fields(ValueSettings)})


def _check(name: str, value: object, metadata: object) -> None:
    limits = dict(metadata)  # type: ignore[call-overload]
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(limits['choices'])}")
    if "min" in limits and not (isinstance(value, int | float) and limits["min"] <= value <= limits.get("max", 1e30)):
        upper = f" and at most {limits['max']}" if "max" in limits else ""
        raise ValueError(f"{name} is {value!r}; expected a number of at least {limits['min']}{upper}")


def key_direction(key: torch.Tensor, moment: Moment, ridge: float) -> torch.Tensor:
    """u, the unit vector along (C + r I)^-1 k, with r = ridge x mean eigenvalue of C: [d_mlp] -> [d_mlp], float64.

    Raises:
        ValueError: if C cannot be inverted.
    """
    matrix = moment.matrix.double()
    matrix = matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise ValueError(
            f"the second moment ({moment.source}) is singular; use more tokens, or a ridge above {ridge:g}"
        )
    solved = torch.cholesky_solve(key.double().cpu()[:, None], factor)[:, 0]
    return solved / solved.norm()


def rank_one_update(
    residual: torch.Tensor, key: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the change that adds `residual` to what `key` is mapped to: ([d_out, 1], [1, d_in]).

    Raises:
        ValueError: if key and direction are orthogonal to rounding.
    """
    denominator = float(key.double() @ direction.double())
    if abs(denominator) <= 1e-12 * float(key.double().norm()):
        raise ValueError("the key is orthogonal to the direction of the update; choose another layer or fact token")
    return (residual / denominator)[:, None], direction[None, :]


@dataclass(frozen=True, eq=False)
class Solution:
    """The rank-one change with the vectors it came from, all float64 on the CPU."""

    rows: torch.Tensor
    """[d_model, 1]"""
    cols: torch.Tensor
    """[1, d_mlp]"""
    key: torch.Tensor
    """[d_mlp], k* (rome-code: the bare prompt's key)."""
    value: torch.Tensor
    """[d_model], v*."""
    denominator: float
    """u . k"""


def solve(
    weight: torch.Tensor, bias: torch.Tensor | None, start: Start, value: Value, direction: torch.Tensor, compat: Compat
) -> Solution:
    """The change of `weight` [d_model, d_mlp] from what the search found; see the module's equations."""
    delta = value.delta.double().cpu()
    if compat == "rome-code":
        key, target = start.keys[0].double().cpu(), start.values[0].double().cpu() + delta
        residual = target - start.values[0].double().cpu()
    else:
        key = mean_key(start.keys[:-1]).cpu()
        now = weight.double().cpu() @ key + (0.0 if bias is None else bias.double().cpu())
        target, residual = now + delta, delta
    rows, cols = rank_one_update(residual, key, direction)
    return Solution(rows, cols, key, target, float(key @ direction))


class RomeMethod:
    """`METHODS["rome"]`."""

    name = "rome"
    title = "ROME"
    family = "locate-then-edit"
    config_type = RomeConfig
    batch = False
    needs = frozenset({"subject", "statistics"})

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: RomeConfig,
        *,
        active: Sequence[Edit] = (),
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Edit:
        """The rank-one edit; computed, not applied: the model is left bit for bit as it was.

        Args:
            progress: called with (percent done, 100).

        Raises:
            ValueError: if there is not one request, the layer is out of range, the prompt does not fit, or a setting leads nowhere.
            FileNotFoundError: if the corpus file does not exist.
            EditCancelled: when `cancelled` said so.
        """
        if len(requests) != 1:
            raise ValueError(f"ROME rewrites one fact at a time, but {len(requests)} were given; compute them singly")
        (request,) = requests
        if config.layer >= model.n_layers:
            raise ValueError(f"layer {config.layer} is out of range: this model has layers 0 to {model.n_layers - 1}")
        began = perf_counter()
        contexts = make_contexts(model, config.prefixes, config.seed)
        batch = make_batch(model, request.fact, request.target_new, contexts, config.fact_token)
        start = read_start(model, config.layer, batch)
        if not mean_key(start.keys[:-1]).any():
            raise ValueError(
                f"the MLP of layer {config.layer} is silent at the edited token (its key is zero), so no change of its "
                "weight can act there; choose another layer"
            )
        prepared = perf_counter()
        moment = _moment(model, config, _part(progress, 0, 50), cancelled)
        estimated = perf_counter()
        value = optimise_value(
            model,
            config.layer,
            batch,
            start,
            config.value_settings,
            progress=_part(progress, 50, 95),
            cancelled=cancelled,
        )
        found = perf_counter()
        if cancelled is not None and cancelled():
            raise EditCancelled
        name = model.architecture.key_weight_name(config.layer)
        module = model.key_module(config.layer)
        weight = as_out_in(module, model.weight(name))
        direction = key_direction(mean_key(start.keys[:-1]), moment, config.ridge)
        solution = solve(weight, getattr(module, "bias", None), start, value, direction, config.compat)
        delta = WeightDelta(name, solution.rows.float(), solution.cols.float())
        seconds = {
            "moments": estimated - prepared,
            "value": (prepared - began) + (found - estimated),
            "solve": perf_counter() - found,
        }
        edit = Edit(self.name, (request,), config, (delta,), model.revision, losses=value.losses, seconds=seconds)
        p_after = _p_target(apply_edits(model, [edit]), batch)
        if progress is not None:
            progress(100, 100)
        return diagnose(edit, weight, batch, start, value, moment, solution, p_after)


def _part(progress: Progress | None, first: int, last: int) -> Progress | None:
    """Progress of one stage, in percent of the whole."""
    if progress is None:
        return None
    whole = progress
    return lambda done, total: whole(first + (last - first) * min(done, total) // max(total, 1), 100)


def _moment(model: LanguageModel, config: RomeConfig, progress: Progress | None, cancelled: Cancelled | None) -> Moment:
    if config.second_moment == "identity":
        return identity(model.d_mlp)
    if config.corpus:
        path = Path(config.corpus)
        if not path.is_file():
            raise FileNotFoundError(f"there is no text file {config.corpus!r}; give one with a document a line")
        texts, source = path.read_text(encoding="utf-8").splitlines(), path.name
    else:
        # Every document has several tokens, so this many always suffice.
        texts, source = sample_texts(max(1, config.moment_tokens // 8)), "the bundled corpus"
    return load_or_estimate(
        model, config.layer, texts, config.moment_tokens, source=source, progress=progress, cancelled=cancelled
    )


def _p_target(model: LanguageModel, batch: Batch) -> float:
    """Probability of the whole target after the bare prompt."""
    row = batch.rows[0]
    logits = model.logits(torch.tensor([row.ids], device=model.device))[0].log_softmax(-1)
    positions = torch.arange(row.n_prompt - 1, len(row.ids) - 1)
    return float(logits[positions, torch.tensor(row.ids[row.n_prompt :])].sum().exp())
