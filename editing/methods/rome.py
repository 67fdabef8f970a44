"""ROME: rewrite one fact by a rank-one change of one MLP's down-projection.

Meng et al. 2022, section 3 (arXiv:2202.05262).  The down-projection W maps a key k to a value v = W k + b.  Among all
changes that make it map k* to v*, the one that disturbs the usual keys least is (equation 2)

    delta = (v* - W k* - b) u^T / (u . k*),    u = (C + r I)^-1 k* / |(C + r I)^-1 k*|,    C = E[k k^T].

ROME here uses two keys, as the public code does: the mean over contexts for u, and the bare prompt's key with its value
for the residual and the denominator.  The bare prompt is then mapped to v* exactly.  If the two keys differ much, the
denominator u . k is small and the change large, and one such change in a long sequence of edits breaks the model.

R-ROME is the corrected form of Gupta et al. 2024 (arXiv:2403.07175), with their public code: it uses the *same* k*, the
mean over contexts, in all three places, so that (W + delta) k* + b = v* holds exactly.  The value is the bare prompt's,
v* = v + delta_v.  The residual is v + delta_v - W k* - b: delta_v plus the distance of the bare prompt's value from the
mean over contexts.

Symbols: k* key, v* value, v what the MLP wrote after the bare prompt, u direction, C moment.matrix, r ridge x mean
eigenvalue of C, delta_v values.Value.delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from editing.configs import check_config, with_constants
from editing.method import Change, Method, Task
from editing.ops import WeightDelta
from editing.parts.contexts import make_contexts
from editing.parts.diagnosis import diagnose, moment_diagnostics
from editing.parts.keys import make_batch, mean_key
from editing.parts.moments import moment_for
from editing.parts.rank_one import key_direction, solve
from editing.parts.settings import MomentSettings, SearchSettings
from editing.parts.values import LimitReference, optimise_value, read_start
from models import as_out_in

_PUBLIC_CODE = {
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
"""Constants of both public codes (kmeng01/rome at 0874014 and scalable-model-editing/rebuilding-rome at 82b789f, on
GitHub; hparams for GPT-2 XL).  Their C is not among them: it is the mean over 100,000 texts of Wikipedia, which are not
here; `corpus` and `moment_tokens` take a text of that kind."""
_COMPAT_HELP = "Settings relative to what the model has, or all of the public code, its constants included."


@dataclass(frozen=True)
class RankOneConfig(MomentSettings, SearchSettings):
    """Settings of ROME and R-ROME.

    Defaults that differ from the paper's, and why:

    * learning rate relative to the residual, and twice the steps: a fixed 0.5 is too small for large residuals
    * stop at a loss of 0.1 instead of 0.05: keeps more neighbours and loses few paraphrases
    * 2 contexts instead of 50: R-ROME's one key stays close to the bare prompt's
    * 20,000 tokens instead of 100,000, with a small ridge because fewer tokens leave C nearly singular
    * norm limit relative to the residual, and no weight decay: the limit already bounds the norm, and decay keeps the
      search from its target where MLPs write little

    `python -m benchmarks.reference --method rome --set stop_loss=0.05` measures such a choice on the bundled model.
    """

    layer: int = field(metadata={"help": "Layer whose MLP is changed, counted from 0.", "min": 0})
    limit_reference: LimitReference = field(
        default="residual",
        metadata={
            "help": "What the norm limit is relative to: the residual stream at the edited token, or the MLP's own "
            "output there (the paper; too tight where MLPs write little).",
            "choices": ("residual", "mlp_out"),
        },
    )


@with_constants({"rome-code": _PUBLIC_CODE})
@dataclass(frozen=True)
class RomeConfig(RankOneConfig):
    """Settings of ROME; see `RankOneConfig` for what differs from the paper.

    With `compat="rome-code"` every setting that is not given takes the public code's constant, and the search follows
    that code exactly.  C does not change: see `corpus` and `moment_tokens`.

    Raises:
        ValueError: if a value is out of its range.
    """

    compat: Literal["rome", "rome-code"] = field(
        default="rome", metadata={"help": _COMPAT_HELP, "choices": ("rome", "rome-code")}
    )

    def __post_init__(self) -> None:
        check_config(self)


@with_constants({"r-rome-code": _PUBLIC_CODE})
@dataclass(frozen=True)
class RRomeConfig(RankOneConfig):
    """Settings of R-ROME; see `RankOneConfig`, and `RomeConfig` for what `compat="r-rome-code"` does.

    Raises:
        ValueError: if a value is out of its range.
    """

    compat: Literal["r-rome", "r-rome-code"] = field(
        default="r-rome", metadata={"help": _COMPAT_HELP, "choices": ("r-rome", "r-rome-code")}
    )

    def __post_init__(self) -> None:
        check_config(self)


class RomeMethod(Method):
    """`METHODS["rome"]`."""

    name = "rome"
    title = "ROME"
    family = "locate-then-edit"
    config_type: type[Any] = RomeConfig
    needs = frozenset({"subject", "statistics"})

    def change(self, task: Task) -> Change:
        """The rank-one change.

        Raises:
            ValueError: if the prompt does not fit, the layer's MLP is silent, or a setting leads nowhere.
            FileNotFoundError: if the corpus file does not exist.
            Cancelled: if the watch says to stop.
        """
        model, config, watch = task.model, task.config, task.watch
        began = perf_counter()
        contexts = make_contexts(model, config.prefixes, config.seed)
        batch = make_batch(model, task.request.fact, task.request.target_new, contexts, config.fact_token)
        start = read_start(model, config.layer, batch, config.compat)
        if not mean_key(start.keys[:-1]).any():
            raise ValueError(
                f"the MLP of layer {config.layer} is silent at the edited token (its key is zero), so no change of its "
                "weight can act there; choose another layer"
            )
        prepared = perf_counter()
        moment = moment_for(task.base, config.layer, config, watch=watch.part(0, 50))
        estimated = perf_counter()
        watch.step(50, 100, "search")
        value = optimise_value(model, config.layer, batch, start, config.value_settings, watch=watch.part(50, 95))
        searched = perf_counter()
        name = model.architecture.key_weight_name(config.layer)
        module = model.key_module(config.layer)
        weight = as_out_in(module, model.weight(name))
        direction = key_direction(mean_key(start.keys[:-1]), moment, config.ridge)
        solution = solve(weight, getattr(module, "bias", None), start, value, direction, config.compat)
        delta = WeightDelta(name, solution.rows.float(), solution.cols.float())
        return Change(
            ops=(delta,),
            losses=value.losses,
            seconds={
                "moments": estimated - prepared,
                "value": (prepared - began) + (searched - estimated),
                "solve": perf_counter() - searched,
            },
            keys={name: solution.key[None].float()},
            diagnostics=diagnose(model, config, delta, batch, start, value, moment, solution),
            more=moment_diagnostics(config, moment),
            p_before=[value.p_before],
            p_found=[value.p_found],
        )


class RRomeMethod(RomeMethod):
    """`METHODS["r-rome"]`."""

    name = "r-rome"
    title = "R-ROME"
    config_type = RRomeConfig
