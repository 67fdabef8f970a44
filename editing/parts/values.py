"""The value v*: what a layer should write at the subject so that the model says the new answer.

Meng et al. 2022, section 3.1, equation 4 (arXiv:2202.05262).  A vector delta is added at the fact token of every
context, and found by Adam on

    L(delta) = 1/N sum_j -log P[target | x_j + p]  +  kl_factor * KL(P[. | p'] || P_base[. | p'])  +  decay,

with p' = "{subject} is a".  ROME adds it to the MLP's output; MEMIT to the output of the last block it edits (Meng et
al. 2023, section 4.2, arXiv:2210.07229).  Where the published code and the paper differ, `compat` chooses (see
`Compat`).  The searches of several requests share their forward passes and nothing else.

Step size and norm limit are lengths, in units of what the site can effect (`editing.parts.reach`).  (The paper's limit,
4 x the norm of the MLP's output, is reached long before the target is likely on models whose MLPs write little.)

An edit reports when its search reached the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from editing.edit import LossStep
from editing.parts.answers import Targets, padded, portions
from editing.parts.keys import Batch
from editing.parts.reach import Unit, unit_at
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.forwards.partial import PartialForward, Reading
from models.forwards.sites import Keep, Key, Visit

Compat = Literal["r-rome", "r-rome-code", "rome", "rome-code", "memit", "memit-code"]
"""The search: r-rome, rome and memit take a learning rate relative to the unit, the KL at the last token of p' and the
decay |delta|^2 relative to the reference norm; those named -code follow the public codes, with an absolute learning
rate, the KL at the subject's token of p' and the decay |delta| / |v|^2, v what stands at the site.  The update of ROME
and R-ROME: one key or two, see `editing.methods.rome`."""
PUBLIC_CODES: tuple[Compat, ...] = ("r-rome-code", "rome-code", "memit-code")
LimitReference = Literal["residual", "mlp_out"]
ValueSite = Literal["mlp_out", "resid_post"]


@dataclass(frozen=True)
class ValueSettings:
    """How v* is searched; see `editing.parts.settings.SearchSettings` for the meaning and the defaults."""

    steps: int
    learning_rate: float
    kl_factor: float
    weight_decay: float
    norm_limit: float
    stop_loss: float
    limit_reference: LimitReference = "residual"
    compat: Compat = "r-rome"


@dataclass(frozen=True, eq=False)
class Start:
    """What the search and the update read from the unedited model on one request's batch."""

    keys: torch.Tensor
    """[batch, d_mlp], float32, input of the down projection at each row's fact token."""
    values: torch.Tensor
    """[batch, d_model], float32, what stands there at the site of the search."""
    residual_norm: float
    """Norm of the block's output at the fact token of the bare prompt."""
    unit: Unit
    """Of steps, bound and decay."""
    essence: torch.Tensor
    """[d_vocab], log probabilities after (public codes: at the subject of) "{subject} is a"."""
    p_target: float
    """Probability of the whole target after the bare prompt."""
    forward: PartialForward | None = None
    """The rows it was read from, for a search that changes them; None where they are many."""

    @property
    def value_norm(self) -> float:
        """Norm of what stands at the fact token of the bare prompt."""
        return float(self.values[0].norm())


@dataclass(frozen=True, eq=False)
class Value:
    """The result of one search."""

    delta: torch.Tensor
    """[d_model], float32; v* is the unedited value plus this."""
    losses: tuple[LossStep, ...]
    limit: float
    """Largest norm delta was allowed."""
    limit_reached: bool
    p_before: float
    """Probability of the whole target after the bare prompt."""
    p_found: float
    """The same with delta added."""


def read_starts(
    model: LanguageModel,
    layer: int,
    batches: Sequence[Batch],
    *,
    site: ValueSite = "mlp_out",
    compat: Compat = "r-rome",
) -> list[Start]:
    """Read the unedited model on every batch, in as few forward passes as fit."""
    sites: list[Key] = [("mlp_key", layer), (site, layer), ("mlp_out", layer), ("resid_post", layer)]
    starts: list[Start] = []
    for portion in portions([(len(batch.rows), batch.ids.shape[1]) for batch in batches]):
        some = [batches[index] for index in portion]
        rows = [row for batch in some for row in batch.rows]
        places, captured = _Places(some, compat, model.device), dict[Key, torch.Tensor]()
        visits: dict[Key, Visit] = {key: Keep(key, captured) for key in sites}
        lookups = torch.tensor([row.lookup for row in rows])
        forward = PartialForward(model, padded(model, rows), (site, layer), lookups)
        nll, essences = places.of(forward.unchanged(places.all, visits))
        kept = forward if len(some) == len(batches) else None
        at = (torch.arange(len(rows)), lookups)
        states = [captured[key][at].float().split(places.sizes) for key in sites]
        for index, (batch, keys, values, outputs, residuals) in enumerate(zip(some, *states, strict=True)):
            p_target = math.exp(-_answer_tokens(batch) * float(nll[index][0]))
            residual = float(residuals[0].norm())
            unit = unit_at(model, layer, site, outputs[0], residual)
            essence = essences[index].log_softmax(-1)
            starts.append(Start(keys, values, residual, unit, essence, p_target, kept))
    return starts


class _Places:
    """Where some batches' losses are read, their rows below each other: at the answers and the ends of the essences.

    These are a few positions of each row, and logits at all of them would be most of a search.
    """

    def __init__(self, batches: Sequence[Batch], compat: Compat, device: torch.device) -> None:
        self.sizes = [len(batch.rows) for batch in batches]
        self.targets = Targets([row for batch in batches for row in batch.rows], device)
        ends = torch.tensor(self.sizes, device=device).cumsum(0) - 1
        essence = torch.tensor([_essence_position(batch, compat) for batch in batches], device=device)
        self.all = torch.cat([self.targets.row, ends]), torch.cat([self.targets.position, essence])

    def of(self, logits: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Each batch's target losses [row] and essence logits [batch, d_vocab], from [place, d_vocab]."""
        n = len(self.targets.row)
        return self.targets.nll_there(logits[:n]).split(self.sizes), logits[n:]

    def split(self, losses: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Each batch's target losses [row] and KL at the end of its essence [batch], from [place]."""
        n = len(self.targets.row)
        return self.targets.by_row(losses[:n]).split(self.sizes), losses[n:]


def read_start(model: LanguageModel, layer: int, batch: Batch, compat: Compat = "r-rome") -> Start:
    """Read the unedited model on one batch, at the MLP's output."""
    return read_starts(model, layer, [batch], compat=compat)[0]


@dataclass(eq=False)
class _Search:
    """One request's search while it runs."""

    batch: Batch
    start: Start
    delta: torch.Tensor
    """[d_model], trained."""
    reference: float
    settings: ValueSettings
    losses: list[LossStep] = field(default_factory=list)
    bare_nll: float = math.nan
    done: bool = False

    @property
    def limit(self) -> float:
        return self.settings.norm_limit * self.reference

    def objective(self, nll: torch.Tensor, divergence: torch.Tensor, step: int) -> torch.Tensor:
        """The loss from the rows' target losses [batch] and the KL at the essence prompt; also keeps score.

        Raises:
            ValueError: if it is not a number.
        """
        kl = self.settings.kl_factor * divergence
        decay = self.settings.weight_decay * self._decay()
        mean = nll[:-1].mean()
        terms = LossStep(float(mean.detach()), float(kl.detach()), float(decay.detach()))
        if not math.isfinite(terms.total):
            raise ValueError(f"the loss became NaN or infinite at step {step} of the value search; lower learning_rate")
        self.losses.append(terms)
        self.bare_nll = float(nll[0].detach())
        self.done = terms.total < self.settings.stop_loss or step == self.settings.steps - 1
        return mean + kl + decay

    def _decay(self) -> torch.Tensor:
        if self.settings.compat in PUBLIC_CODES:  # they square the denominator alone
            return self.delta.norm() / self.start.values[0].norm() ** 2
        return self.delta.square().sum() / self.reference**2

    def shorten(self) -> None:
        """Project delta back onto the ball of radius `limit`."""
        with torch.no_grad():
            norm = float(self.delta.norm())
            if norm > self.limit:
                self.delta.mul_(self.limit / norm)

    def result(self) -> Value:
        delta = self.delta.detach()
        return Value(
            delta=delta,
            losses=tuple(self.losses),
            limit=self.limit,
            limit_reached=bool(delta.norm() >= self.limit * (1 - 1e-4)),
            p_before=self.start.p_target,
            p_found=math.exp(-_answer_tokens(self.batch) * self.bare_nll),
        )


def optimise_values(
    model: LanguageModel,
    layer: int,
    batches: Sequence[Batch],
    starts: Sequence[Start],
    settings: ValueSettings,
    *,
    site: ValueSite = "mlp_out",
    watch: Watch = UNWATCHED,
) -> list[Value]:
    """Search one delta for each batch.  The last step is measured but not taken, and a search stops at `stop_loss`.

    Raises:
        ValueError: if a loss stops being a number.
        Cancelled: if `watch` says to stop.
    """
    values: list[Value] = []
    for portion in portions([(len(batch.rows), batch.ids.shape[1]) for batch in batches]):
        searches = [_search(model, batches[index], starts[index], settings) for index in portion]
        together = _Portion(model, layer, site, searches)
        optimiser = torch.optim.Adam(
            [{"params": [search.delta], "lr": settings.learning_rate * _step_unit(search)} for search in searches]
        )
        for step in range(settings.steps):
            if all(search.done for search in searches):
                break
            together.step(optimiser, step)
            share = (step + 1) / settings.steps * len(searches)
            watch.step(round(settings.steps * (len(values) + share)), settings.steps * len(batches))
        values += [search.result() for search in searches]
    return values


def optimise_value(
    model: LanguageModel,
    layer: int,
    batch: Batch,
    start: Start,
    settings: ValueSettings,
    *,
    watch: Watch = UNWATCHED,
) -> Value:
    """Search delta for one batch at the MLP's output; see `optimise_values`."""
    return optimise_values(model, layer, [batch], [start], settings, watch=watch)[0]


def _search(model: LanguageModel, batch: Batch, start: Start, settings: ValueSettings) -> _Search:
    own = settings.limit_reference == "mlp_out" or settings.compat == "memit-code"
    reference = start.value_norm if own else start.unit.length
    return _Search(
        batch, start, torch.zeros(model.d_model, device=model.device, requires_grad=True), reference, settings
    )


class _Portion:
    """Searches that share their forward passes."""

    def __init__(self, model: LanguageModel, layer: int, site: ValueSite, searches: Sequence[_Search]) -> None:
        self.model, self.searches = model, searches
        rows = [row for search in searches for row in search.batch.rows]
        of = padded(model, rows), (site, layer), torch.tensor([row.lookup for row in rows])
        forward = searches[0].start.forward
        self.forward = forward if forward is not None and forward.is_of(*of) else PartialForward(model, *of)
        self.owner = torch.tensor([index for index, search in enumerate(searches) for _ in search.batch.rows])
        self._read(searches)

    def _read(self, active: Sequence[_Search]) -> None:
        """Measure these searches from now on."""
        self.active = active
        self.places = _Places([each.batch for each in active], active[0].settings.compat, self.model.device)
        wanted = torch.tensor([not search.done for search in self.searches])
        self.reading = Reading(
            wanted[self.owner].nonzero()[:, 0],
            self.places.all,
            self.places.targets.token,
            torch.stack([search.start.essence for search in active]),
        )

    def step(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Measure every active search, and move those that go on."""
        active = [search for search in self.searches if not search.done]
        if len(active) < len(self.active):
            self._read(active)
        with torch.enable_grad():
            deltas = torch.cat([search.delta.expand(len(search.batch.rows), -1) for search in active])
            nll, divergences = self.places.split(self.forward.losses(self.reading, deltas))
            total = torch.zeros((), device=self.model.device)
            for index, search in enumerate(active):
                loss = search.objective(nll[index], divergences[index], step)
                total = total if search.done else total + loss
            moving = [search for search in active if not search.done]
            if not moving:
                return
            optimiser.zero_grad()
            total.backward()
            for search in active:
                if search.done:
                    search.delta.grad = None  # zero would still let Adam's momentum move it
            optimiser.step()
        for search in moving:
            search.shorten()


def _step_unit(search: _Search) -> float:
    """Adam moves every coordinate by about its learning rate, whatever the gradient: so the rate is taken in units of
    the unit's root mean square, or the same number of steps would reach far in one model and nowhere in another."""
    if search.settings.compat in PUBLIC_CODES:
        return 1.0
    return search.start.unit.length / len(search.delta) ** 0.5


def _essence_position(batch: Batch, compat: Compat) -> int:
    """Where the KL is read: at the end of "{subject} is a"; the public codes read it at the subject instead."""
    row = batch.rows[-1]
    return row.lookup if compat in PUBLIC_CODES else len(row.ids) - 1


def _answer_tokens(batch: Batch) -> int:
    return len(batch.rows[0].ids) - batch.rows[0].n_prompt
