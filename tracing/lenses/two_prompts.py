"""Activation patching between two prompts: a state of one run is written into the run of another.

    change(i -> j, l) = P(word | base prompt, with h_j^l := h_i^l of the source prompt) - P(word | base prompt)

Geiger et al. 2021 (arXiv:2106.02997) call it an interchange intervention; Zhang & Nanda 2023 (arXiv:2309.16042) compare
ways to corrupt.  Unlike a causal trace neither run is noised, and the prompts may have different words and lengths: a
state of the token i of the source goes to the token j of the base, one layer at a time.  Followed are the first tokens
of what the model itself answers to either prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts.watch import UNWATCHED, Watch
from models import LanguageModel, own_answer, run
from models.forwards.interventions import Patch
from models.forwards.sites import Key
from tracing.sites import SITE_NAMES, TraceSite
from tracing.storage import Stored

Pair = tuple[int, int]
"""(position in the source prompt, position in the base prompt)."""


@dataclass(frozen=True, eq=False)
class PatchResult(Stored):
    """What the base prompt's run says of both answers when states of the source prompt's run are written into it."""

    KIND: ClassVar[str] = "engram-two-prompts-1"

    model_name: str
    revision: str
    site: str
    source: str
    base: str
    source_tokens: tuple[str, ...]
    base_tokens: tuple[str, ...]
    words: tuple[str, str]
    """The model's answers: to the source prompt, to the base prompt."""
    pairs: tuple[Pair, ...]
    unpatched: NDArray[np.float32]
    """[prompt, word], probability of each word after the source and after the base prompt, nothing patched."""
    patched: NDArray[np.float32]
    """[word, pair, layer], probability after the base prompt with one state patched."""

    @property
    def change(self) -> NDArray[np.float32]:
        """[pair, layer], how much more probable the source's answer is than after the unpatched base prompt."""
        return (self.patched[0] - self.unpatched[1, 0]).astype(np.float32)


def patch_between(
    model: LanguageModel,
    source: str,
    base: str,
    *,
    site: TraceSite = "resid_post",
    pairs: Sequence[Pair] | None = None,
    watch: Watch = UNWATCHED,
) -> PatchResult:
    """Write each state of the source prompt into the base prompt's run, one pair and layer at a time.

    Args:
        source: the prompt whose states are taken.
        base: the prompt whose run they are written into.
        site: which states; all but single heads.
        pairs: (position in the source, position in the base); by default every position into the same one, for
            prompts of equally many tokens.
        watch: told (pairs done, pairs in all), and asked before every forward pass.

    Raises:
        ValueError: if a prompt does not fit the model, a position is not in its prompt, the site is of heads, or no
            pairs are given and the prompts have different numbers of tokens.
        facts.watch.Cancelled: when the watch says so.
    """
    if site == "attn_heads":
        raise ValueError("states of single heads are not patched between prompts; choose resid_post, mlp_out, attn_out")
    ids = [model.encode(prompt) for prompt in (source, base)]
    chosen = _checked(pairs, len(ids[0]), len(ids[1]))
    layers = range(model.n_layers)
    rows = [torch.tensor([row], device=model.device) for row in ids]
    keys: list[Key] = [(site, layer) for layer in layers]
    taken = run(model, rows[0], captures=keys, last_only=True)
    answers = [own_answer(model, prompt) for prompt in (source, base)]
    firsts = [answer[0] for answer in answers]
    clean = [_probabilities(logits, firsts)[0] for logits in (taken.logits, run(model, rows[1], last_only=True).logits)]
    patched = np.zeros((2, len(chosen), len(layers)), dtype=np.float32)
    for number, (start, stop) in enumerate(chosen):
        watch.step(number, len(chosen), f"patching the {SITE_NAMES[site].long}")
        states = [taken.captured[key][0, start] for key in keys]
        patches = {key: _write(layer, stop, state) for layer, (key, state) in enumerate(zip(keys, states, strict=True))}
        logits = run(model, rows[1].expand(len(layers), -1), patches=patches, last_only=True).logits
        patched[:, number] = _probabilities(logits, firsts).T
    words = tuple(model.token_strings(answer)[0].strip() for answer in answers)
    return PatchResult(
        model_name=model.name,
        revision=model.revision,
        site=site,
        source=source,
        base=base,
        source_tokens=tuple(model.token_strings(ids[0])),
        base_tokens=tuple(model.token_strings(ids[1])),
        words=(words[0], words[1]),
        pairs=chosen,
        unpatched=np.stack(clean),
        patched=patched,
    )


def _write(layer: int, position: int, state: Tensor) -> Patch:
    """Row `layer` of a batch gets the state at one position; the other rows are those of other layers."""

    def write(states: Tensor) -> Tensor:
        states[layer, position] = state.to(states)
        return states

    return write


def _checked(pairs: Sequence[Pair] | None, n_source: int, n_base: int) -> tuple[Pair, ...]:
    if pairs is None:
        if n_source != n_base:
            raise ValueError(
                f"the prompts have {n_source} and {n_base} tokens, so tokens have no partner by their place; choose "
                "the tokens to patch between"
            )
        return tuple((position, position) for position in range(n_base))
    for start, stop in pairs:
        if not (0 <= start < n_source and 0 <= stop < n_base):
            raise ValueError(
                f"there is no token {start} in the source or {stop} in the base prompt; they have {n_source} and "
                f"{n_base} tokens, counted from 0"
            )
    return tuple((int(start), int(stop)) for start, stop in pairs)


def _probabilities(logits: Tensor, tokens: Sequence[int]) -> NDArray[np.float32]:
    """[row, 1, d_vocab] logits to [row, token] probabilities."""
    found: NDArray[np.float32] = logits[:, -1].float().softmax(-1)[:, list(tokens)].cpu().numpy()
    return found
