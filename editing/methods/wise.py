"""WISE: edits are stored in a side copy of one MLP weight, which only prompts in their scope use.

Wang et al. 2024, section 3 (arXiv:2405.14768).  W' starts as the layer's weight W; for every request, on the prompt and
answer behind several contexts, all tokens through the side weight,

    L = -log P[answer] + max(0, D_out - alpha) + max(0, beta - D_in) + max(0, gamma - (D_in - D_out)),
    D(x) = mean over the prompt's tokens of |(W' - W) x|,   D_in of the edited prompt, D_out of irrelevant ones,

by SGD on the entries of a random mask of W' (`mask_ratio` of them), none of which may leave W by more than
`norm_bound`.  The answer is later taken from W' where D exceeds `act_ratio` x the smallest D_in of the shard's edits
(`editing.applied.side`).  After `save_every` edits a new shard begins, with a mask of its own; shards are merged, or
queried for the most active.

Differences from the public code: D is the paper's, not the distance of activated outputs; each row is switched by its
prompt alone; there is no weight decay, which in the public code also shrinks masked entries; a hinge is a mean over all
pairs, not over those that violate it; a merge keeps `density` of a shard's moved entries, not of all; how many edits a
shard takes follows the size of the weight, and the most active shard answers, where the public code merges two.  An
edit is stored as what it added to W', so that it can be removed; edits made after it stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from editing.configs import check_config
from editing.edit import Diagnostic, LossStep
from editing.method import Change, Method, Task
from editing.ops import SideOp
from editing.parts.answers import AnswerRow, Targets, answer_row, new_answers, padded
from editing.parts.contexts import BARE, make_contexts
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from facts.watch import Watch
from models import LanguageModel, as_out_in, fits
from models.calls import calling
from models.forwards.hooks import Below, read_states
from models.forwards.partial import logits_at

HINGE = 7.0
"""Nats that a miss of a margin by the norm of the layer's output counts: what it counted on the bundled model, whose
outputs have that norm."""
SETTLED = 1e-4
"""The search ends when the loss is low and changes less than this, as in the public code."""


PUBLISHED_ENTRIES = 0.2 * 4096 * 11008 / 500
"""Masked entries for each edit of a shard: a fifth of a down projection of Llama 2 7B for 500 edits (public code).  In
a small weight so many overwrite one another."""


@dataclass(frozen=True, kw_only=True)
class WiseConfig:
    """Settings of WISE.

    The paper's margins of 5, 20 and 10 are lengths in one model's activations.  By default they are in units of the
    layer's own output, in the same proportion; a step is in units of (what the layer writes / what it reads)^2, and the
    margins' part of the loss in units of what it writes.

    Raises:
        ValueError: if a value is out of its range.
    """

    layer: int = field(  # type: ignore[assignment]  # None until the model is known: `editing.method.settled`
        default=None,
        metadata={
            "help": "Layer whose MLP gets the side weight, counted from 0; three quarters of the depth if not given.",
            "min": 0,
            "share": 0.75,
        },
    )
    steps: int = field(default=70, metadata={"help": "Most steps of the search.", "min": 1, "max": 1000})
    learning_rate: float = field(default=1.0, metadata={"help": "Of SGD.", "min": 1e-6, "max": 1000.0})
    mask_ratio: float = field(
        default=0.2, metadata={"help": "Share of the side weight's entries a shard may change.", "min": 0.0, "max": 1.0}
    )
    norm_bound: float = field(
        default=30.0,
        metadata={
            "help": "Farthest any entry may move from the weight, in units of its mean absolute entry.",
            "min": 0.0,
            "max": 1e6,
        },
    )
    alpha: float = field(
        default=0.25, metadata={"help": "Irrelevant prompts should be less active than this.", "min": 0.0, "max": 1e6}
    )
    beta: float = field(
        default=1.0, metadata={"help": "The edited prompt should be more active than this.", "min": 0.0, "max": 1e6}
    )
    gamma: float = field(
        default=0.5, metadata={"help": "Least difference of the two activations.", "min": 0.0, "max": 1e6}
    )
    margin_unit: Literal["output", "absolute"] = field(
        default="output",
        metadata={
            "help": "What margins and learning rate are measured in: the norms of what the layer writes and reads, or "
            "the layer's own units (the paper).",
            "choices": ("output", "absolute"),
        },
    )
    act_ratio: float = field(
        default=0.88,
        metadata={"help": "Threshold of the side weight, as a share of its edits' smallest activation.", "min": 0.0},
    )
    stop_loss: float = field(default=0.02, metadata={"help": "The search stops below this loss.", "min": 0.0})
    irrelevant: int = field(
        default=4, metadata={"help": "Prompts of the atlas that should not use the side weight.", "min": 1, "max": 100}
    )
    prefixes: int = field(default=10, metadata={"help": "Generated texts put before the prompt.", "min": 0, "max": 50})
    save_every: int = field(
        default=0,
        metadata={
            "help": "Edits after which a new shard begins; 0: as many as 500 are for a weight of Llama 2 7B.",
            "min": 0,
            "max": 10**6,
        },
    )
    shards: Literal["merge", "retrieve"] = field(
        default="retrieve",  # a merge of more than a few shards loses their edits, also those just made
        metadata={"help": "Merge the shards into one, or use the most active.", "choices": ("merge", "retrieve")},
    )
    density: float = field(
        default=0.53,
        metadata={"help": "Share of a shard's change that is kept in a merge.", "min": 0.01, "max": 1.0},
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of masks, prefixes and irrelevant prompts.", "min": 0, "max": 2**31 - 1}
    )

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, eq=False)
class Inputs:
    """A layer's input on some rows, read once, because changes of this layer do not affect it."""

    rows: tuple[AnswerRow, ...]
    states: torch.Tensor
    """[batch, pos, d_mlp]"""

    def prompt_mask(self) -> torch.Tensor:
        """[batch, pos], true at the prompts' tokens."""
        ends = torch.tensor([row.n_prompt for row in self.rows], device=self.states.device)
        return torch.arange(self.states.shape[1], device=self.states.device)[None] < ends[:, None]

    def activations(self, change: torch.Tensor) -> torch.Tensor:
        """D of each row: [d_model, d_mlp] -> [batch]."""
        mask = self.prompt_mask()
        length = (self.states @ change.T).square().sum(-1)
        # the root has no gradient at 0, where a new side weight starts
        return ((length + 1e-12).sqrt() * mask).sum(1) / mask.sum(1)


def margins(d_in: torch.Tensor, d_out: torch.Tensor, alpha: float, beta: float, gamma: float) -> torch.Tensor:
    """The three hinge terms of the loss, over all pairs of edited and irrelevant rows: [in], [out] -> scalar."""
    apart = (gamma - (d_in[:, None] - d_out[None])).clamp_min(0).mean()
    return (d_out - alpha).clamp_min(0).mean() + (beta - d_in).clamp_min(0).mean() + apart


class WiseMethod(Method):
    """`METHODS["wise"]`."""

    name = "wise"
    title = "WISE"
    family = "memory"
    config_type: type[Any] = WiseConfig
    needs = frozenset({"demonstrations"})

    def change(self, task: Task) -> Change:
        """What the request adds to the side weight.

        Raises:
            ValueError: if the prompt does not fit.
            Cancelled: if the watch says to stop.
        """
        model, config = task.model, task.config
        name = model.architecture.key_weight_name(config.layer)
        weight = as_out_in(model.key_module(config.layer), model.weight(name))
        earlier = [op for edit in task.active for op in edit.ops if isinstance(op, SideOp) and op.name == name]
        shard = len(earlier) // (config.save_every or edits_in(weight, config.mask_ratio))
        index = mask_of(weight, config, shard)
        edited, others = _rows(model, task.request, config)
        inside = _inputs(model, config.layer, edited)
        outside = _inputs(model, config.layer, others)
        start = torch.zeros(weight.numel(), device=weight.device)
        for op in (op for op in earlier if op.shard == shard):
            start.index_add_(0, op.index.to(start.device), op.change.to(start))
        change, losses = _search(model, config, inside, outside, start, index, task.watch)
        total = start.index_add(0, index, change).reshape(weight.shape)
        active_in, active_out = inside.activations(total), outside.activations(total)
        moved = change != 0
        op = SideOp(
            name,
            (weight.shape[0], weight.shape[1]),
            index[moved].cpu(),
            change[moved].cpu(),
            shard,
            float(active_in[0]),
            config.act_ratio,
            config.density if config.shards == "merge" else 0.0,
        )
        return Change(ops=(op,), losses=losses, diagnostics=tuple(_diagnostics(op, float(active_out.max()))))


def edits_in(weight: torch.Tensor, mask_ratio: float) -> int:
    """How many edits a shard of a weight takes, so that each has as many masked entries as a published one."""
    return max(1, round(weight.numel() * mask_ratio / PUBLISHED_ENTRIES))


def mask_of(weight: torch.Tensor, config: WiseConfig, shard: int) -> torch.Tensor:
    """[n] int64, the entries of the flattened weight [d_out, d_in] that a shard may change: Bernoulli(mask_ratio)."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + shard)
    chosen = torch.rand(weight.numel(), generator=generator) < config.mask_ratio
    return chosen.nonzero()[:, 0].to(weight.device)


def _rows(model: LanguageModel, request: EditRequest, config: WiseConfig) -> tuple[list[AnswerRow], list[AnswerRow]]:
    """The edited prompt in its contexts, the bare one first; and irrelevant prompts of other subjects and relations."""
    edited = new_answers(model, [request])
    for context in make_contexts(model, config.prefixes, config.seed):
        prompt = context.replace(BARE, request.fact.prompt)
        if context != BARE and fits(model, prompt, request.target_new):
            edited.append(answer_row(model, prompt, request.target_new))
    return edited, [answer_row(model, fact.prompt, fact.target_true) for fact in _irrelevant(model, request, config)]


def _irrelevant(model: LanguageModel, request: EditRequest, config: WiseConfig) -> list[Fact]:
    atlas = load_atlas()
    others = [
        row for row in atlas.facts if row.subject != request.fact.subject and row.relation != request.fact.relation
    ]
    drawn = random.Random(f"{config.seed}|{request.fact.prompt}").sample(others, len(others))
    facts = (atlas.as_fact(row) for row in drawn)
    chosen = []
    for fact in facts:
        if fits(model, fact.prompt, fact.target_true):
            chosen.append(fact)
        if len(chosen) == config.irrelevant:
            break
    return chosen


def _inputs(model: LanguageModel, layer: int, rows: Sequence[AnswerRow]) -> Inputs:
    with calling(_ends(model, rows)):
        read = read_states(model, padded(model, rows), [("mlp_key", layer)])
    return Inputs(tuple(rows), read["mlp_key", layer].float())


def _ends(model: LanguageModel, rows: Sequence[AnswerRow]) -> torch.Tensor:
    """[batch], tokens of each prompt, so that other memories in the model do not read the answer as part of it."""
    return torch.tensor([row.n_prompt for row in rows], device=model.device)


def _search(
    model: LanguageModel,
    config: WiseConfig,
    inside: Inputs,
    outside: Inputs,
    start: torch.Tensor,
    index: torch.Tensor,
    watch: Watch,
) -> tuple[torch.Tensor, tuple[LossStep, ...]]:
    """What is added at `index` [n] to the side weight, whose change so far is `start` [d_out * d_in]."""
    module = model.key_module(config.layer)
    weight = as_out_in(module, model.weight(model.architecture.key_weight_name(config.layer)))
    own = torch.nn.functional.linear(inside.states.to(weight.dtype), weight, getattr(module, "bias", None)).float()
    scale = _scale(own, inside, config)
    alpha, beta, gamma = (scale.margin * margin for margin in (config.alpha, config.beta, config.gamma))
    bound = config.norm_bound * float(weight.abs().mean())
    first = start[index]
    side = first.clone().requires_grad_(True)  # only the masked entries are parameters
    optimiser = torch.optim.SGD([side], lr=config.learning_rate * scale.rate)
    targets, ids, ends = Targets(inside.rows, model.device), padded(model, inside.rows), _ends(model, inside.rows)
    places = targets.row, targets.position
    with calling(ends):
        below = Below(model, ids, config.layer)
    losses: list[LossStep] = []
    for step in range(config.steps):
        with torch.enable_grad():
            change = start.index_put((index,), side).reshape(weight.shape)
            written = own + inside.states @ change.T
            with calling(ends), model.lock, below.given():
                logits = logits_at(model, ids, places, {("mlp_out", config.layer): _putting(written)}, grad=True)
            nll = targets.nll_there(logits).mean()
            apart = margins(inside.activations(change), outside.activations(change), alpha, beta, gamma)
            hinges = scale.hinge * apart
        losses.append(LossStep(float(nll.detach()), 0.0, float(hinges.detach())))
        watch.step(step + 1, config.steps)
        if _settled(losses, config.stop_loss):
            break
        optimiser.zero_grad()
        (nll + hinges).backward()
        optimiser.step()
        with torch.no_grad():
            side.clamp_(-bound, bound)
    return side.detach() - first, tuple(losses)


@dataclass(frozen=True)
class _Scale:
    """What lengths are measured in, so that a model that writes twice as much gets a change twice as large."""

    margin: float = 1.0
    rate: float = 1.0
    hinge: float = 1.0


def _scale(own: torch.Tensor, inside: Inputs, config: WiseConfig) -> _Scale:
    """From what the layer writes, [batch, pos, d_model], and reads at the prompts' tokens."""
    if config.margin_unit == "absolute":
        return _Scale()
    mask = inside.prompt_mask()
    written, read = (float(states[mask].norm(dim=-1).mean()) for states in (own, inside.states))
    return _Scale(written, (written / read) ** 2, HINGE / written)


def _putting(written: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda output: written.to(output.dtype)


def _settled(losses: Sequence[LossStep], stop_loss: float) -> bool:
    if len(losses) < 2 or losses[-1].total > stop_loss:
        return False
    return abs(losses[-1].total - losses[-2].total) <= SETTLED


def _diagnostics(op: SideOp, highest_out: float) -> list[Diagnostic]:
    threshold = op.activation * op.ratio
    warning = ""
    if highest_out > threshold:
        warning = (
            f"an irrelevant prompt exceeds the threshold ({highest_out:.3g} against {threshold:.3g}) and would use the "
            "side weight; take more steps or more irrelevant prompts"
        )
    share = len(op.index) / (op.shape[0] * op.shape[1])
    return [
        Diagnostic("activation", op.activation, "|(W' - W) x|", "Of the edited prompt, mean over its tokens."),
        Diagnostic("activation elsewhere", highest_out, "|(W' - W) x|", "Highest of the irrelevant prompts.", warning),
        Diagnostic("side entries", share, "of the weight", "Entries of the side weight that this edit changed."),
        Diagnostic("shard", float(op.shard), "", "Number of the side weight that holds the edit."),
    ]
