"""GRACE: a codebook in one layer replaces its output for inputs near those of earlier edits.  No weight changes.

Hartvigsen et al. 2023, section 3 (arXiv:2211.11031).  At one layer's down projection, for every request in turn,

    k   the layer's input at the prompt's last token
    v   what the layer should write there: gradient descent on -log P[answer | prompt, the layer writes v]

and (k, v, answer) becomes an entry of the codebook.  `editing.applied.codebook` computes the radii.

Differences from the two public codes: the module is the down projection in every family, as in EasyEdit's Llama, where
the authors take `c_fc`, the up-projection, in GPT-2 XL; a value is written while the prompt is read and stays in the
attention's cache, and the codebook is not queried again for generated tokens; labels are compared as the answer's
tokens.  `where` defaults to the prompt's last token (EasyEdit).  The authors use "prompt", the tokens before it, which
has no effect in the last layer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import torch

from editing.applied.codebook import Codebook, distances, fold
from editing.configs import check_config
from editing.edit import Diagnostic, LossStep
from editing.method import Change, Method, Task
from editing.ops import CodebookOp, Where
from editing.parts.answers import AnswerRow, Targets, padded
from editing.parts.reach import read_ends
from facts import EditRequest
from facts.atlas import load_atlas
from facts.watch import Watch
from models import LanguageModel, pad, run
from models.calls import calling
from models.forwards.hooks import Below
from models.forwards.partial import PartialForward, Reading, logits_at
from models.forwards.sites import Key

STRANGERS = 10
"""Number of other subjects whose keys are compared with the new one."""
STOP_LOSS = 1e-2
"""The search stops below this loss (P(answer) = .99); the public codes always take all steps."""


@dataclass(frozen=True, kw_only=True)
class GraceConfig:
    """Settings of GRACE.

    The paper's radius of 1 is a length in one model's activations.  By default the radius is relative to the norm of
    the edited key, 0.2 is the largest at which almost no neighbour of the bundled model falls inside (docs/methods.md),
    and it ends half the way to the nearest of ten other subjects of the relation.

    The value is written at one token and reaches an answer's later tokens only through attention in later layers.  The
    default layer is therefore a little earlier than the paper's, which are at three quarters of the depth or later.

    Raises:
        ValueError: if a value is out of its range.
    """

    layer: int = field(  # type: ignore[assignment]  # None until the model is known: `editing.method.settled`
        default=None,
        metadata={
            "help": "Layer whose MLP gets the codebook, counted from 0; three fifths of the depth if not given. At "
            "earlier layers other subjects come near, at later ones answers that begin alike cannot be told apart.",
            "min": 0,
            "share": 0.6,
        },
    )
    radius: float = field(
        default=0.2,
        metadata={
            "help": "Radius of a new entry. A larger one takes in paraphrases, then other subjects.",
            "min": 0.0,
            "max": 1e6,
        },
    )
    radius_unit: Literal["key norm", "absolute"] = field(
        default="key norm",
        metadata={
            "help": "What the radius is measured in: the norm of the new key, where it also ends half the way to the "
            "nearest of ten other subjects, or the layer's own units (the paper).",
            "choices": ("key norm", "absolute"),
        },
    )
    where: Where = field(
        default="last",
        metadata={
            "help": "Where the value is written: at the prompt's last token, at the tokens before it, or at both.",
            "choices": ("last", "prompt", "all"),
        },
    )
    start: Literal["warm", "cold"] = field(
        default="warm",
        metadata={
            "help": "Where the search for a value starts: what the layer writes now, or numbers drawn from [0, 1].",
            "choices": ("warm", "cold"),
        },
    )
    steps: int = field(default=100, metadata={"help": "Most steps of the search for a value.", "min": 1, "max": 1000})
    learning_rate: float = field(default=0.3, metadata={"help": "Of Adam, in the search.", "min": 1e-6, "max": 100.0})
    rate_unit: Literal["reach", "absolute"] = field(
        default="reach",
        metadata={
            "help": "What the learning rate is measured in: the root mean square of what the layer can effect, or the "
            "layer's own units (the paper, which takes 1).",
            "choices": ("reach", "absolute"),
            "earlier": "absolute",
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of a cold start.", "min": 0, "max": 2**31 - 1})

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, eq=False)
class Place:
    """The layer at the end of a prompt, read without the answer."""

    row: AnswerRow
    key: torch.Tensor
    """[d_mlp], input of the down projection at the prompt's last token."""
    written: torch.Tensor
    """[d_model], what the layer writes there now."""
    unit: float
    """Of the value (`editing.parts.reach`)."""


class GraceMethod(Method):
    """`METHODS["grace"]`."""

    name = "grace"
    title = "GRACE"
    family = "memory"
    config_type = GraceConfig
    batch = True
    stage = "value"

    def change(self, task: Task) -> Change:
        """One entry a request, in turn.

        Raises:
            ValueError: if a prompt does not fit.
            Cancelled: if the watch says to stop.
        """
        model, config = task.model, task.config
        path = model.architecture.key_path(config.layer)
        book = [op for edit in task.active for op in edit.ops if isinstance(op, CodebookOp) and op.module == path]
        entries: list[CodebookOp] = []
        losses: list[LossStep] = []
        for index, row in enumerate(task.rows):
            place = _place(model, config.layer, row)
            strangers = _strangers(model, task.requests[index], config)
            reach = _reach(place.key, strangers, config)
            label = row.ids[row.n_prompt :]
            start = _start(place, book, label, reach, config)
            value = _search(model, config, place, start, losses, task.watch)
            entries.append(CodebookOp(path, place.key[None], value[None], (label,), reach, config.where))
            book.append(entries[-1])
            task.watch.step(index + 1, len(task.rows))
        return Change(
            ops=tuple(entries),
            losses=tuple(losses) if len(task.rows) == 1 else (),
            diagnostics=(*_diagnostics(fold(book), book), *_nearest(strangers, fold(book))),
        )


def _place(model: LanguageModel, layer: int, row: AnswerRow) -> Place:
    ends = read_ends(model, layer, [row])
    return Place(row, ends.keys[0], ends.outputs[0], ends.unit)


def _start(
    place: Place, ops: Sequence[CodebookOp], label: tuple[int, ...], reach: float, config: GraceConfig
) -> torch.Tensor:
    """Start of the search, [d_model]: the value of the entry that this one will join, else warm or cold."""
    if ops:
        book = fold(ops)
        distance, nearest = distances(place.key[None], book.keys)[0].min(dim=0)
        if book.labels[int(nearest)] == label and float(distance) <= float(book.radii[nearest]) + reach:
            return book.values[int(nearest)].clone()
    if config.start == "cold":
        generator = torch.Generator().manual_seed(config.seed)
        return torch.rand(len(place.written), generator=generator).to(place.written)
    return place.written.clone()


def _search(
    model: LanguageModel,
    config: GraceConfig,
    place: Place,
    start: torch.Tensor,
    losses: list[LossStep],
    watch: Watch,
) -> torch.Tensor:
    """v: Adam on the mean negative log probability of the answer, [d_model]."""
    value = start.to(model.device).requires_grad_(True)
    # Adam moves every coordinate by about its rate, so the rate is in units of a root mean square
    unit = place.unit / len(value) ** 0.5 if config.rate_unit == "reach" else 1.0
    optimiser = torch.optim.Adam([value], lr=config.learning_rate * unit)
    # so that other memories in the model do not read the answer as part of the prompt
    prompt = torch.tensor([place.row.n_prompt], device=model.device)
    with calling(prompt):
        loss_of = _loss(model, config, place)
    best, lowest = value.detach().clone(), float("inf")
    for _ in range(config.steps):
        watch.check()
        with torch.enable_grad(), calling(prompt):
            loss = loss_of(value)
        losses.append(LossStep(float(loss.detach()), 0.0, 0.0))
        if losses[-1].total < lowest:  # a step may overshoot, so keep the best value
            best, lowest = value.detach().clone(), losses[-1].total
        if lowest < STOP_LOSS:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return best.float().cpu()


def _loss(model: LanguageModel, config: GraceConfig, place: Place) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of a value, [d_model] -> scalar, from the logits at the answer alone."""
    row = place.row
    site: Key = ("mlp_out", config.layer)
    ids, targets = padded(model, [row]), Targets([row], model.device)
    places = targets.row, targets.position
    if config.where == "last":  # nothing before that token changes
        forward = PartialForward(model, ids, site, torch.tensor([row.n_prompt - 1]))
        reading = Reading(torch.arange(1), places, targets.token, torch.empty(0, model.d_vocab, device=model.device))
        return lambda value: targets.by_row(forward.losses(reading, (value - place.written)[None]))[0]
    positions = torch.arange(len(row.ids), device=model.device)
    mask = positions < (row.n_prompt - 1 if config.where == "prompt" else row.n_prompt)
    below = Below(model, ids, config.layer)

    def loss(value: torch.Tensor) -> torch.Tensor:
        def put(written: torch.Tensor) -> torch.Tensor:
            return torch.where(mask[:, None], value.to(written.dtype), written)

        with model.lock, below.given():
            return targets.nll_there(logits_at(model, ids, places, {site: put}, grad=True))[0]

    return loss


def _diagnostics(book: Codebook, ops: Sequence[CodebookOp]) -> list[Diagnostic]:
    n_asked = sum(len(op.labels) for op in ops)
    norms = book.keys.double().norm(dim=1)
    help_text = (
        "Entries of this layer's codebook, those of earlier edits included; edits with one answer may share one."
    )
    return [
        Diagnostic("codebook", float(len(book.labels)), f"entries of {n_asked} facts", help_text),
        Diagnostic("radius", float(book.radii[-1]), "|k - k'|", "Of the newest entry, after its neighbours' share."),
        Diagnostic("key norm", float(norms[-1]), "|k|", "Input of the down projection at the prompt's last token."),
    ]


def alike(request: EditRequest) -> list[str]:
    """Other subjects of the atlas with the same relation and another object than the new answer.

    The relation is the request's, or one the atlas asks about in the same words, or one that its subject has; any
    subject where there is none.
    """
    atlas, fact = load_atlas(), request.fact
    words = {relation.name for relation in atlas.relations.values() if fact.template in relation.all_templates}
    own = {row.relation for row in atlas.facts if row.subject == fact.subject and row.object == fact.target_true}
    relations = {fact.relation} & set(atlas.relations) or words or own
    rows = [row for row in atlas.facts if row.relation in relations and row.object != request.target_new]
    names = {row.subject for row in rows} or set(atlas.subjects())
    return sorted(names - {fact.subject})


def _strangers(model: LanguageModel, request: EditRequest, config: GraceConfig) -> torch.Tensor:
    """Keys of the same prompt about some other subjects, [stranger, d_mlp]; none where their names are too long."""
    others = alike(request)
    drawn = random.Random(f"{config.seed}|{request.fact.prompt}").sample(others, min(STRANGERS, len(others)))
    rows: list[list[int]] = []
    for name in drawn:
        with suppress(ValueError):  # too long
            rows.append(model.encode(request.fact.template.replace("{}", name)))
    if not rows:
        return torch.empty(0, model.d_mlp)
    ids, lengths = pad(rows, model.pad_id)
    with calling(lengths.to(model.device)):
        read = run(model, ids, captures=[("mlp_key", config.layer)]).captured["mlp_key", config.layer].float()
    return read[torch.arange(len(lengths)), lengths - 1].cpu()


def _reach(key: torch.Tensor, strangers: torch.Tensor, config: GraceConfig) -> float:
    """The new entry's radius, before that of others counts.

    Relative ones end half the way to the nearest stranger, where GRACE draws the border between entries of different
    answers (section 3): in Gemma 3 most other subjects of a relation lie within a fifth of the key's norm.
    """
    if config.radius_unit == "absolute":
        return config.radius
    reach = config.radius * float(key.norm())
    return min([reach, *(distances(key[None].cpu(), strangers)[0] / 2).tolist()])


def _nearest(strangers: torch.Tensor, book: Codebook) -> list[Diagnostic]:
    """Distance of the strangers from the newest entry; inside its radius they get its value."""
    if not len(strangers):
        return []
    away, radius = distances(strangers, book.keys[-1:].cpu()), float(book.radii[-1])
    nearest, inside = float(away.min()), int((away <= radius).sum())
    warning = ""
    if inside:
        warning = (
            f"the same prompt about {inside} of {len(strangers)} other subjects falls inside the radius ({nearest:.3g} "
            f"against {radius:.3g}) and gets this answer too; choose a later layer or a smaller radius"
        )
    help_text = f"Distance of the nearest of {len(strangers)} prompts with the same words about other subjects."
    return [Diagnostic("nearest stranger", nearest, "|k - k'|", help_text, warning)]
