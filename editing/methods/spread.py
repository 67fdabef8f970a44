"""One change spread over several layers for many facts at once: the base of MEMIT, EMMET and AlphaEdit.

Meng et al. 2023, section 4.3 and algorithm 1 (MEMIT, arXiv:2210.07229).  For every request i a search finds the vector
z_i that the last edited block should write at the subject (`editing.parts.values`, at the block's output).  Then, layer
by layer and each on top of the layers before,

    K_l = [k_l(i)]                      input of the down projection, mean over the bare prompt and the contexts
    R_l = [z_i - h_L(i)] / (L - l + 1)  what is still missing at the last layer L, shared by the layers left
    W_l <- W_l + R_l D_l,               D_l [n, d_mlp] from K_l: this is where the methods differ

Behind a post-norm R_l is the change of the MLP's output for which its normalised write changes by that share, as nearly
as possible (`editing.parts.reach`).

Symbols: n requests, K [d_mlp, n], R [d_model, n], h_L the residual stream behind the last edited block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import torch

from editing.applied.view import apply_edits
from editing.edit import Diagnostic, Edit, LossStep
from editing.method import Change, Method, Task
from editing.ops import WeightDelta
from editing.parts.contexts import make_contexts
from editing.parts.diagnosis import Outcome, diagnose_many, limit_diagnostics, moment_diagnostics
from editing.parts.keys import Batch, make_batch, mean_by_kind, read_lookups
from editing.parts.moments import Moment, moment_for
from editing.parts.reach import changed_outputs
from editing.parts.settings import MomentSettings, RangeSettings, SearchSettings
from editing.parts.values import Start, Value, optimise_values, read_starts
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(MomentSettings, SearchSettings, RangeSettings):
    """Settings that the three methods share."""


class Update(Protocol):
    """The part that differs between the methods."""

    def directions(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        """D, so that the change of the layer is R D: [d_mlp, n] -> [n, d_mlp], float64 on the CPU."""

    def diagnostics(self) -> list[Diagnostic]:
        """The method's own diagnostics, after all layers."""


@dataclass(frozen=True, eq=False)
class Found:
    """The z of every request, and the inputs of their searches."""

    batches: tuple[Batch, ...]
    starts: tuple[Start, ...]
    values: tuple[Value, ...]

    @property
    def targets(self) -> torch.Tensor:
        """Z: [d_model, n], float64 on the CPU; what the last block should write at the subject of the bare prompts."""
        wanted = [start.values[0] + value.delta for start, value in zip(self.starts, self.values, strict=True)]
        return torch.stack(wanted, dim=1).double().cpu()


class SpreadMethod(Method):
    """MEMIT's algorithm, in which subclasses choose the update."""

    family = "locate-then-edit"
    batch = True
    needs = frozenset({"subject", "statistics"})

    @abstractmethod
    def update(self, task: Task, moments: dict[int, Moment]) -> Update:
        """The update for these layers' second moments and the edits already in the model."""

    def change(self, task: Task) -> Change:
        """The change of every layer for all requests together.

        Raises:
            ValueError: if a prompt does not fit, or every layer's MLP is silent.
            FileNotFoundError: if the corpus file does not exist.
            Cancelled: if the watch says to stop.
        """
        model, config, watch = task.model, task.config, task.watch
        began = perf_counter()
        moments = {}
        for index, layer in enumerate(config.layers):
            stage = watch.part(40 * index // len(config.layers), 40 * (index + 1) // len(config.layers))
            moments[layer] = moment_for(task.base, layer, config, watch=stage)
        estimated = perf_counter()
        watch.step(40, 100, "search")
        searches = search(model, task.requests, config, watch=watch.part(40, 90))
        searched = perf_counter()
        update = self.update(task, moments)
        changes, keys, gaps = spread(task, searches, update, watch=watch.part(90, 98))
        seconds = {"moments": estimated - began, "value": searched - estimated, "solve": perf_counter() - searched}
        named = {model.architecture.key_weight_name(layer): moment for layer, moment in moments.items()}
        changed = {op.name: named[op.name] for op in changes}
        outcome = Outcome(searches.batches, searches.starts, searches.values, changed, gaps)
        moment = next(iter(changed.values()))
        return Change(
            ops=changes,
            losses=mean_losses([value.losses for value in searches.values]),
            seconds=seconds,
            keys=keys,
            diagnostics=diagnose_many(model, changes, outcome),
            more=(*limit_diagnostics(config, outcome), *update.diagnostics(), *moment_diagnostics(config, moment)),
            p_before=[value.p_before for value in searches.values],
            p_found=[value.p_found for value in searches.values],
        )


def search(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    config: SpreadConfig,
    *,
    watch: Watch = UNWATCHED,
) -> Found:
    """z of every request, at the output of the last block edited."""
    contexts = make_contexts(model, config.prefixes, config.seed)
    batches = [make_batch(model, r.fact, r.target_new, contexts, config.fact_token) for r in requests]
    starts = read_starts(model, config.layer, batches, site="resid_post", compat=config.value_settings.compat)
    values = optimise_values(
        model,
        config.layer,
        batches,
        starts,
        config.value_settings,
        site="resid_post",
        watch=watch,
    )
    return Found(tuple(batches), tuple(starts), tuple(values))


def spread(
    task: Task, searches: Found, update: Update, *, watch: Watch = UNWATCHED
) -> tuple[tuple[WeightDelta, ...], dict[str, torch.Tensor], tuple[float, ...]]:
    """The changes, the keys of each changed weight [n, d_mlp], and how much of each z was missing before every layer
    and in the end.

    Raises:
        ValueError: if the MLPs of all layers are silent at the subjects.
        Cancelled: if the watch says to stop.
    """
    model, layers = task.model, task.config.layers
    edit = Edit("spread", task.requests, task.config, (), model.revision)
    changes: list[WeightDelta] = []
    used: dict[str, torch.Tensor] = {}
    targets, gaps = searches.targets, []

    def changed() -> LanguageModel:
        return apply_edits(model, [replace(edit, ops=tuple(changes))])

    for index, layer in enumerate(layers):
        keys, outputs, stream = _read(changed(), layer, layers[-1], searches.batches)
        missing = targets - stream
        gaps.append(_mean_norm(missing))
        if not keys.any():  # a silent MLP cannot write anything; later layers take its share
            continue
        directions = update.directions(layer, keys)
        name = model.architecture.key_weight_name(layer)
        residuals = changed_outputs(model, layer, outputs, missing / (len(layers) - index))
        changes.append(WeightDelta(name, residuals.float(), directions.float()))
        used[name] = keys.T.float()
        watch.step(index + 1, len(layers))
    if not changes:
        raise ValueError(
            f"the MLPs of layers {layers[0]} to {layers[-1]} are silent at the edited tokens (their keys are zero), so "
            "no change of their weights can act there; choose another layer"
        )
    *_, stream = _read(changed(), layers[-1], layers[-1], searches.batches)
    return tuple(changes), used, (*gaps, _mean_norm(targets - stream))


def mean_losses(curves: Sequence[Sequence[LossStep]]) -> tuple[LossStep, ...]:
    """Mean loss over requests at every step; a search that has stopped counts with its last loss."""
    steps = []
    for step in range(max(len(curve) for curve in curves)):
        now = [curve[min(step, len(curve) - 1)] for curve in curves]
        terms = (sum(getattr(loss, name) for loss in now) / len(now) for name in ("target_nll", "kl", "decay"))
        steps.append(LossStep(*terms))
    return tuple(steps)


def _read(
    model: LanguageModel, layer: int, last: int, batches: Sequence[Batch]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """K of one layer, [d_mlp, n], and at the bare subjects what its MLP returns and what the last block writes,
    [d_model, n] each; float64."""
    rows = [row for batch in batches for row in batch.rows[:-1]]
    read = read_lookups(model, rows, [("mlp_key", layer), ("mlp_out", layer), ("resid_post", last)])
    sizes = [len(batch.rows) - 1 for batch in batches]
    keys = torch.stack([mean_by_kind(some) for some in read["mlp_key", layer].split(sizes)], dim=1)
    outputs, stream = (
        torch.stack([some[0] for some in read[site].split(sizes)], dim=1).double().cpu()
        for site in (("mlp_out", layer), ("resid_post", last))
    )
    return keys.cpu(), outputs, stream


def _mean_norm(columns: torch.Tensor) -> float:
    return float(columns.norm(dim=0).mean())
