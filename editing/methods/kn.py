"""Knowledge neurons: find the hidden units of the MLPs that produce the old answer, and change what they write.

Dai et al. 2022, sections 3 and 5.2 (ACL 2022, arXiv:2104.08696).  A neuron is one entry w_i of the input of a layer's
down projection at the last token of the prompt.  Its integrated gradient is

    Attr(w_i) = w_i / m  sum_k  dP(old | w := (k/m) w) / dw_i,    over m steps,

which over a layer adds up to P(old | w) - P(old | 0).  Kept are neurons above a share of the largest attribution in
a share of several prompts that say the fact; what neuron i writes, v_i, then becomes

    v_i - c_old |v_i| e(old) / |e(old)| + c_new |v_i| e(new) / |e(new)|,    c_old = 1, c_new = 8.

It serves as a negative control, because the edit also changes whatever else those neurons are used for (Meng et al.
2022, table 4; Hase et al. 2023).  The prompts are the fact behind texts the model generated itself, since the
paraphrases of a request judge the edit.  For answers of several tokens e and P are the first token's.

Symbols: w keys [d_mlp], v_i the column of W that neuron i multiplies, e the rows of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from editing.configs import check_config
from editing.edit import Diagnostic
from editing.method import Change, Method, Task
from editing.ops import WeightDelta
from editing.parts.answers import AnswerRow
from editing.parts.contexts import BARE, make_contexts
from editing.parts.diagnosis import size_diagnostic
from facts import EditRequest
from facts.watch import Watch
from models import LanguageModel, Site, as_out_in, fits, run, target_ids
from models.calls import calling
from models.forwards.interventions import run_traced


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronsConfig:
    """Settings of knowledge neurons.

    Raises:
        ValueError: if a value is out of its range.
    """

    steps: int = field(default=20, metadata={"help": "Steps of the integrated gradients.", "min": 1, "max": 500})
    rule: Literal["right", "midpoint"] = field(
        default="right",
        metadata={
            "help": "Where each step reads the gradient: at its right end (the paper), or in its middle (more exact).",
            "choices": ("right", "midpoint"),
        },
    )
    coarse: float = field(
        default=0.2,
        metadata={"help": "A neuron counts above this share of the largest attribution.", "min": 0.0, "max": 1.0},
    )
    share: float = field(
        default=0.7,
        metadata={
            "help": "Share of the prompts in which it has to count; lowered until one does.",
            "min": 0.0,
            "max": 1.0,
        },
    )
    most: int = field(default=5, metadata={"help": "Most neurons rewritten.", "min": 1, "max": 10000})
    prefixes: int = field(
        default=5, metadata={"help": "Generated texts put before the prompt, to refine by.", "min": 0, "max": 50}
    )
    old_factor: float = field(
        default=1.0, metadata={"help": "How much of the old answer is subtracted, in norms.", "min": 0.0, "max": 1000.0}
    )
    new_factor: float = field(
        default=8.0, metadata={"help": "How much of the new answer is added, in norms.", "min": 0.0, "max": 1000.0}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the generated texts.", "min": 0, "max": 2**31 - 1})

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def fractions(self) -> torch.Tensor:
        """[steps], the points between 0 and 1 at which the gradient is read."""
        shift = 0.5 if self.rule == "midpoint" else 0.0
        return (torch.arange(1, self.steps + 1) - shift) / self.steps


@dataclass(frozen=True, order=True)
class Neuron:
    """One hidden unit of one layer's MLP."""

    layer: int
    index: int


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, read once; scaling neurons at its last token changes nothing before that token."""

    read: torch.Tensor
    """[1, pos], the tokens that are read again with other neurons: the last, or all where none were kept."""
    before: Any
    """Attention keys and values of the tokens before (a transformers cache); None if there are none, and for a hybrid,
    which has more to keep."""
    neurons: torch.Tensor
    """[layer, d_mlp] float32, at the last token."""


def read_prompt(model: LanguageModel, ids: Sequence[int]) -> Prompt:
    """One pass over the prompt, and one over all but its last token."""
    tokens = torch.tensor([list(ids)], device=model.device)
    sites: list[tuple[Site, int]] = [("mlp_key", layer) for layer in range(model.n_layers)]
    captured = run(model, tokens, captures=sites, last_only=True).captured
    before = None
    if len(ids) > 1 and not model.architecture.mixed:
        with model.lock, torch.no_grad(), calling(torch.tensor([len(ids)], device=model.device)):
            before = model.module(input_ids=tokens[:, :-1], use_cache=True).past_key_values
    read = tokens if before is None else tokens[:, -1:]
    return Prompt(read, before, torch.stack([captured[site][0, -1].float() for site in sites]))


def attributions(
    model: LanguageModel, prompt: Prompt, layer: int, token: int, fractions: torch.Tensor
) -> tuple[torch.Tensor, float, float]:
    """Integrated gradients of one layer's neurons at the last token: [d_mlp].

    Args:
        token: whose probability after the prompt is attributed.
        fractions: [steps], where the gradients are read between 0 and the neurons as they are.

    Returns:
        The attributions, P(token) with the neurons as they are, and with all of them at 0.
    """
    neurons = prompt.neurons[layer]
    ends = torch.tensor([1.0, 0.0])

    def at_end(keys: torch.Tensor) -> torch.Tensor:
        return torch.cat([keys[:, :-1], scaled[:, None].to(keys)], dim=1)

    with torch.enable_grad():
        # the two ends, for the sum that the attributions should have
        scaled = (torch.cat([fractions, ends]).to(model.device)[:, None] * neurons).requires_grad_(True)
        inputs: dict[str, Any] = {"input_ids": prompt.read.expand(len(scaled), -1), "use_cache": True}
        if prompt.before is not None:
            inputs["past_key_values"] = copy.deepcopy(prompt.before)  # the forward pass appends its token to the cache
            inputs["past_key_values"].batch_repeat_interleave(len(scaled))
            start = prompt.before.get_seq_length()
            inputs["position_ids"] = torch.full_like(inputs["input_ids"], start)
        with model.lock:
            logits = run_traced(model, inputs, {("mlp_key", layer): at_end})
        likely = logits[:, -1].float().softmax(-1)[:, token]
        (gradient,) = torch.autograd.grad(likely[: len(fractions)].sum(), scaled)
    attributed = neurons * gradient[: len(fractions)].mean(0)
    return attributed.detach(), float(likely[-2].detach()), float(likely[-1].detach())


def choose(attributed: torch.Tensor, coarse: float, share: float, most: int) -> list[Neuron]:
    """The neurons that count in enough prompts, the strongest first.

    Args:
        attributed: [prompt, layer, d_mlp].
        coarse: a neuron counts in a prompt above this share of the prompt's largest attribution.
        share: in this share of the prompts it has to count; lowered until one neuron does.
        most: how many are kept, by mean attribution.

    Raises:
        ValueError: if no attribution is positive.
    """
    largest = attributed.flatten(1).max(1).values
    if not bool((largest > 0).any()):
        raise ValueError(
            "no neuron raises the probability of the old answer, so none can be changed; choose another fact"
        )
    counts = (attributed > coarse * largest[:, None, None].clamp_min(0)).double().mean(0)
    kept = counts >= min(share, float(counts.max()))
    scores = attributed.mean(0).masked_fill(~kept, -torch.inf).flatten()
    order = scores.argsort(descending=True)[: min(most, int(kept.sum()))]
    return [Neuron(int(i) // attributed.shape[2], int(i) % attributed.shape[2]) for i in order]


def rewrite(
    model: LanguageModel, neurons: Sequence[Neuron], old: int, new: int, old_factor: float, new_factor: float
) -> tuple[WeightDelta, ...]:
    """One rank-one change a layer: every neuron's column moves along the same direction, by its own norm."""
    head = model.weight(f"{model.architecture.head}.weight").float()
    direction = new_factor * head[new] / head[new].norm() - old_factor * head[old] / head[old].norm()
    deltas = []
    for layer in sorted({neuron.layer for neuron in neurons}):
        name = model.architecture.key_weight_name(layer)
        weight = as_out_in(model.key_module(layer), model.weight(name)).float()
        chosen = [neuron.index for neuron in neurons if neuron.layer == layer]
        cols = torch.zeros(1, weight.shape[1], device=weight.device)
        cols[0, chosen] = weight[:, chosen].norm(dim=0)
        deltas.append(WeightDelta(name, direction[:, None].clone(), cols))
    return tuple(deltas)


class KnowledgeNeuronsMethod(Method):
    """`METHODS["kn"]`."""

    name = "kn"
    title = "Knowledge neurons"
    family = "locate-then-edit"
    config_type = KnowledgeNeuronsConfig
    needs = frozenset({"subject"})
    stage = "neurons"

    def change(self, task: Task) -> Change:
        """The change of the chosen neurons.

        The old answer is the request's true one, or what the model itself says where the request has none.

        Raises:
            ValueError: if a prompt does not fit, or no neuron carries the old answer.
            Cancelled: if the watch says to stop.
        """
        model, config, (row,) = task.model, task.config, task.rows
        old = _old_token(model, task.request, row)
        result = _everywhere(model, task.request, old, config, task.watch)
        neurons = choose(result.attributed, config.coarse, config.share, config.most)
        deltas = rewrite(model, neurons, old, row.ids[row.n_prompt], config.old_factor, config.new_factor)
        own = size_diagnostic(model, deltas)
        return Change(ops=deltas, diagnostics=(own,), more=tuple(_located(neurons, result)))


@dataclass(frozen=True, eq=False)
class _Everywhere:
    attributed: torch.Tensor
    """[prompt, layer, d_mlp]"""
    completeness: float
    """Sum of the attributions divided by its exact value, over all layers of the bare prompt."""


def _old_token(model: LanguageModel, request: EditRequest, row: AnswerRow) -> int:
    if request.fact.target_true.strip():
        return target_ids(model, request.fact.target_true, request.fact.prompt)[0]
    prompt = torch.tensor([row.ids[: row.n_prompt]], device=model.device)
    return int(model.logits(prompt)[0, -1].argmax())


def _everywhere(
    model: LanguageModel,
    request: EditRequest,
    old: int,
    config: KnowledgeNeuronsConfig,
    watch: Watch,
) -> _Everywhere:
    """Attributions of every layer, for the bare prompt and behind every context that leaves room for it."""
    contexts = [context.removesuffix(BARE) for context in make_contexts(model, config.prefixes, config.seed)]
    texts = [context + request.fact.prompt for context in contexts]
    prompts = [model.encode(text) for text in texts if fits(model, text, request.target_new)]
    attributed = torch.zeros(len(prompts), model.n_layers, model.d_mlp)
    moved = expected = 0.0
    for index, prompt in enumerate(read_prompt(model, ids) for ids in prompts):
        for layer in range(model.n_layers):
            of_layer, whole, nothing = attributions(model, prompt, layer, old, config.fractions)
            attributed[index, layer] = of_layer.cpu()
            if index == 0:
                moved, expected = moved + abs(float(of_layer.sum())), expected + abs(whole - nothing)
            watch.step(98 * (index * model.n_layers + layer + 1) // (len(prompts) * model.n_layers), 100)
    return _Everywhere(attributed, moved / expected if expected else 1.0)


def _located(neurons: Sequence[Neuron], result: _Everywhere) -> list[Diagnostic]:
    places = ", ".join(f"{neuron.layer}.{neuron.index}" for neuron in neurons)
    help_text = "Sum of the attributions divided by its exact value; 1 is exact."
    return [
        Diagnostic("neurons", float(len(neurons)), "", f"Rewritten, as layer.index: {places}."),
        Diagnostic("completeness", result.completeness, "", help_text),
    ]
