"""What will an edit break?  Foretold from keys alone, before the edit is applied, and measured after.

An edit of low rank adds Delta to the down-projection W of an MLP.  After a prompt with keys k_t it changes what the MLP
writes by Delta k_t, whatever the edit was made for.  The larger that is beside what the token's state consists of, the
more the prompt's answer may move:

    foretold(prompt) = max_t |Delta k_t| / |h_t|

with h_t the block's output.  Behind a post-norm (Gemma 2 and 3, OLMo 2) only the direction of the MLP's output counts,
so that h_t is that output.  Where an edit changes several layers, their shares are added at each token.  Keys and
states are read from one forward of the unedited model and kept, so that every further edit of the layer costs one
product.  What an edit did is measured by KL(P || P*) of the next token, P without and P* with the edit, in nats.

The formula is ours; docs/editing.md says how well it ranks prompts.  Symbols: Delta rows cols, k_t mlp_key [d_mlp].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from editing.applied.view import apply_edits
from editing.edit import Edit
from editing.ops import WeightDelta
from editing.parts.reach import factor
from facts import EditRequest
from facts.atlas import load_atlas
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, Site, pad
from models.forwards.hooks import read_states
from models.forwards.partial import logits_at
from models.forwards.sites import Key

BATCH_TOKENS = 2048
"""Tokens of one forward, padding included."""
STAGE = "reading prompts that should stay"
PROMPTS = 400
"""Prompts that an edit is held against by default."""
SAME_RELATION = 100
"""Of them, at most so many about other subjects of the edited relation."""


@dataclass(frozen=True)
class Foretold:
    """One prompt, and how far an edit will move its next token."""

    prompt: str
    foretold: float
    """max_t |Delta k_t| / |h_t|, without a unit: only the order of prompts means something."""


class Forecaster:
    """Some prompts, and what each layer reads there; may be asked about many edits of one model.

    Args:
        model: the unedited one.
        prompts: each once; those that do not fit the model are left out.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[str]) -> None:
        self.model = model
        rows = {prompt: _encoded(model, prompt) for prompt in dict.fromkeys(prompts)}
        self.prompts = tuple(prompt for prompt, row in rows.items() if row)
        self._rows = [rows[prompt] for prompt in self.prompts]
        self._read: dict[int, torch.Tensor] = {}
        self._before: dict[int, torch.Tensor] = {}

    def foretell(self, edit: Edit, watch: Watch = UNWATCHED) -> list[Foretold]:
        """Every prompt, the one that the edit will move most first.

        Raises:
            ValueError: if the edit is more than changes of low rank of the down-projections, or of another model.
            facts.watch.Cancelled: when the watch says so.
        """
        owner = torch.arange(len(self.prompts)).repeat_interleave(torch.tensor([len(row) for row in self._rows]))
        shares = torch.zeros(len(owner))
        for layer, op in self._changes(edit):
            keys = self._layer(layer, watch)
            shares += ((keys @ op.cols.T.float()) @ op.rows.T.float()).norm(dim=1)
        most = torch.zeros(len(self.prompts)).scatter_reduce(0, owner, shares, "amax")
        order = most.argsort(descending=True, stable=True).tolist()
        return [Foretold(self.prompts[index], float(most[index])) for index in order]

    def measure(self, edit: Edit, prompts: Sequence[str] | None = None, watch: Watch = UNWATCHED) -> dict[str, float]:
        """KL of the next token's distribution, without and with the edit, for these prompts (by default all).

        Raises:
            ValueError: if a prompt is not one of the forecaster's, or the edit is of another model.
            facts.watch.Cancelled: when the watch says so.
        """
        places = {prompt: index for index, prompt in enumerate(self.prompts)}
        wanted = list(dict.fromkeys(self.prompts if prompts is None else prompts))
        unknown = next((prompt for prompt in wanted if prompt not in places), None)
        if unknown is not None:
            raise ValueError(f"the prompt {unknown!r} is not among those of the forecast; give it when it is made")
        indices = [places[prompt] for prompt in wanted]
        missing = [index for index in indices if index not in self._before]
        for index, row in self._log_probs(self.model, missing, watch):
            self._before[index] = row
        edited = apply_edits(self.model, [edit])
        after = self._log_probs(edited, indices, watch)
        moved = {index: max(0.0, float(_kl(self._before[index], row))) for index, row in after}
        return {prompt: moved[index] for prompt, index in zip(wanted, indices, strict=True)}

    def _changes(self, edit: Edit) -> list[tuple[int, WeightDelta]]:
        """(layer, change) for each changed down-projection."""
        names = {self.model.architecture.key_weight_name(layer): layer for layer in range(self.model.n_layers)}
        changes = []
        for op in edit.ops:
            if not isinstance(op, WeightDelta) or op.name not in names:
                raise ValueError(
                    f"{edit.method} changes more than down-projections by low rank, so keys do not foretell what it "
                    "breaks; measure it after the edit"
                )
            changes.append((names[op.name], op))
        return changes

    def _layer(self, layer: int, watch: Watch) -> torch.Tensor:
        """k_t / |h_t| of every token of every prompt, [token, d_mlp] float32 on the CPU."""
        if layer in self._read:
            return self._read[layer]
        site: Site = "mlp_out" if self.model.architecture.post_norm else "resid_post"
        sites: tuple[Key, Key] = ("mlp_key", layer), (site, layer)
        keys: dict[int, torch.Tensor] = {}
        for chunk in self._chunks(range(len(self.prompts)), watch):
            ids, _ = pad([self._rows[index] for index in chunk], self.model.pad_id)
            states = read_states(self.model, ids, sites)
            for place, index in enumerate(chunk):
                n = len(self._rows[index])
                key, beside = (states[each][place, :n].float().cpu() for each in sites)
                length = beside.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
                keys[index] = factor(self.model) * key / length
        rows = [keys[index] for index in range(len(self.prompts))]
        self._read[layer] = torch.cat(rows) if rows else torch.zeros(0, self.model.d_mlp)
        return self._read[layer]

    def _log_probs(self, model: LanguageModel, indices: Sequence[int], watch: Watch) -> list[tuple[int, torch.Tensor]]:
        """(index, [d_vocab] float32 log probabilities of the next token) of these prompts."""
        rows = []
        for chunk in self._chunks(indices, watch):
            ids, lengths = pad([self._rows[index] for index in chunk], self.model.pad_id)
            with torch.no_grad():
                logits = logits_at(model, ids, (torch.arange(len(chunk)), lengths - 1))
            rows += list(zip(chunk, logits.log_softmax(-1).cpu(), strict=True))
        return rows

    def _chunks(self, indices: Sequence[int], watch: Watch) -> Iterator[list[int]]:
        """Prompts by rising length, in batches of at most `BATCH_TOKENS` tokens; tells the watch of each."""
        chunks: list[list[int]] = []
        for index in sorted(indices, key=lambda index: len(self._rows[index])):
            if not chunks or (len(chunks[-1]) + 1) * len(self._rows[index]) > BATCH_TOKENS:
                chunks.append([])
            chunks[-1].append(index)
        for number, chunk in enumerate(chunks):
            watch.step(number, len(chunks), STAGE)
            yield chunk


def forecast(model: LanguageModel, edit: Edit, prompts: Sequence[str], watch: Watch = UNWATCHED) -> list[Foretold]:
    """The prompts, those that the edit will move most first; `Forecaster` keeps what it reads for further edits.

    Raises:
        ValueError: if the edit is more than changes of low rank of the down-projections.
    """
    return Forecaster(model, prompts).foretell(edit, watch)


def bystanders(request: EditRequest, n: int = PROMPTS, seed: int = 0) -> list[str]:
    """Prompts that an edit should leave alone: its neighbours and other facts of its subject, other subjects of the
    atlas's relation in the edit's own words, and facts of the atlas drawn with a seed; `n` of them, each once."""
    atlas, fact = load_atlas(), request.fact
    own = {fact.prompt, *(probe.prompt for probe in request.of_kind("paraphrase"))}
    local = [probe.prompt for kind in ("neighborhood", "same_subject") for probe in request.of_kind(kind)]
    draw = random.Random(f"bystanders|{seed}")
    relation = [row for row in atlas.facts if row.relation == fact.relation and row.subject != fact.subject]
    draw.shuffle(relation)
    alike = [fact.template.replace("{}", row.subject) for row in relation[:SAME_RELATION]]
    others = [atlas.as_fact(row).prompt for row in atlas.facts if row.subject != fact.subject]
    draw.shuffle(others)
    chosen = [prompt for prompt in dict.fromkeys([*local, *alike, *others]) if prompt not in own]
    return chosen[:n]


def _encoded(model: LanguageModel, prompt: str) -> list[int]:
    """The prompt's token ids; none where it is empty or too long for the model."""
    try:
        ids = model.encode(prompt)
    except ValueError:
        return []
    return ids if len(ids) <= model.max_positions else []


def _kl(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """KL(before || after) of log probabilities [d_vocab], in nats."""
    p, q = before.double(), after.double()
    return (p.exp() * (p - q)).sum()
