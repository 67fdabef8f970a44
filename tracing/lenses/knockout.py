"""Attention knockout: what the answer loses when the last position may not read the subject, the relation, or itself.

Geva et al. 2023 (arXiv:2304.14767).  For each edge set and each window of layers the edges
are cut in every head of those layers (`models.forwards.attention`), and the answer's probability is compared with the
clean run's:

    change(edges, l) = (P(answer | edges cut around layer l) - P(answer)) / P(answer)

A deep fall for last <- subject in the middle layers says that the last position fetches the answer from the subject
there.  Cutting says what is needed, not where it is stored: attention may fetch it a layer later instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.forwards.attention import edges_cut
from tracing.config import TraceConfig
from tracing.engine.question import Question, ask
from tracing.lenses.pair import answer_log_prob
from tracing.storage import Stored

Edges = tuple[Sequence[int], Sequence[int]]
"""(query positions, key positions): none of these queries reads any of these keys."""
TOLERANCE = 1e-3
"""In logits: largest difference by rounding between forwards with equal masks in different form."""


@dataclass(frozen=True, eq=False)
class KnockoutResult(Stored):
    """The answer's probability with edges cut, by edge set and by the layer their window is centred on."""

    KIND: ClassVar[str] = "engram-knockout-1"

    model_name: str
    revision: str
    prompt: str
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    answer: str
    answer_ids: tuple[int, ...]
    window: int
    """Layers cut together."""
    edges: tuple[str, ...]
    """Names of the edge sets, such as "last <- subject"."""
    clean: float
    """Probability of the answer with nothing cut."""
    log_prob: NDArray[np.float32]
    """[edge, layer], natural logarithm of the answer's probability."""

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.log_prob.shape[1])

    @property
    def change(self) -> NDArray[np.float32]:
        """[edge, layer], relative change of the answer's probability: -1 is all of it gone, 0 nothing."""
        return (np.exp(self.log_prob.astype(np.float64)) / self.clean - 1).astype(np.float32)

    def to_frame(self) -> pd.DataFrame:
        """One row per edge set and layer: edges, layer, window, p_clean, p_cut, change."""
        edge, layer = (axis.ravel() for axis in np.indices(self.log_prob.shape))
        return pd.DataFrame(
            {
                "edges": [self.edges[index] for index in edge],
                "layer": layer,
                "window": self.window,
                "p_clean": self.clean,
                "p_cut": np.exp(self.log_prob).ravel(),
                "change": self.change.ravel(),
            }
        )


def attention_knockout(
    model: LanguageModel,
    fact: Fact,
    *,
    window: int | None = None,
    edges: Mapping[str, Edges] | None = None,
    batch_size: int = 64,
    watch: Watch = UNWATCHED,
) -> KnockoutResult:
    """Cut attention edges window by window; every layer is the centre of one window, clipped to the model.

    Args:
        fact: its prompt, subject and answer; an empty `target_true` asks for the model's own greedy next token.
        window: layers cut together; by default a fifth of the model's, as the paper's 9 are of 48 layers.
        edges: sets of edges by name; by default the paper's three (`paper_edges`).
        batch_size: rows in one forward pass; changes no result.
        watch: told (edge sets done, edge sets in all), and asked before every forward pass.

    Raises:
        Cancelled: when `watch` said so, at most one forward pass later.
        ValueError: if the prompt or the window does not fit, there is no edge to cut, a query would be left without a
            key, or the model's attention cannot be cut this way.
    """
    window = max(1, model.n_layers // 5) if window is None else window
    if not 1 <= window <= model.n_layers:
        raise ValueError(f"window is {window}, but {model.name} has {model.n_layers} layers; choose 1 to that many")
    question = ask(model, fact)
    chosen = paper_edges(question) if edges is None else dict(edges)
    if not chosen:
        raise ValueError(f"the prompt {fact.prompt!r} is one token, which reads no other; write a longer one")
    cuts = {name: _cut(question, name, *pair) for name, pair in chosen.items()}
    ids = torch.tensor([question.ids], device=model.device)
    clean = model.logits(ids)
    _check_cutting(model, ids, clean)
    windows = [TraceConfig(window=window).layers_of(layer, model.n_layers) for layer in range(model.n_layers)]
    log_probs = []
    for number, cut in enumerate(cuts.values(), 1):
        parts = []
        for start in range(0, len(windows), batch_size):
            watch.check()
            parts.append(_scored(model, question, ids, cut, windows[start : start + batch_size]))
        log_probs.append(torch.cat(parts))
        watch.step(number, len(cuts))
    answer = fact.target_true.strip() or model.token_strings(question.answer_ids)[0]
    return KnockoutResult(
        model_name=model.name,
        revision=model.revision,
        prompt=fact.prompt,
        tokens=tuple(model.token_strings(question.ids[: question.n_prompt])),
        subject_span=(question.subject.start, question.subject.stop),
        answer=answer.strip() or answer,
        answer_ids=question.answer_ids,
        window=window,
        edges=tuple(cuts),
        clean=float(answer_log_prob(question, clean)[0].exp()),
        log_prob=torch.stack(log_probs).cpu().numpy(),
    )


def paper_edges(question: Question) -> dict[str, Edges]:
    """From the position that predicts the answer to the subject's tokens, to the prompt's other tokens, to itself.

    Of an answer of several tokens every position that predicts one of them counts as last.  A set that a prompt has no
    tokens for is left out.
    """
    last = range(question.n_prompt - 1, len(question.ids))
    subject = [pos for pos in question.subject if pos not in last]
    relation = [pos for pos in range(last.start) if pos not in subject]
    sets = {"last <- subject": subject, "last <- relation": relation, "last <- last": list(last)}
    return {name: (list(last), keys) for name, keys in sets.items() if keys and (keys != list(last) or last.start > 0)}


def _cut(question: Question, name: str, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
    """[query, key], true where the edge is cut."""
    n_pos = len(question.ids)
    for pos in (*queries, *keys):
        if not 0 <= pos < n_pos:
            raise ValueError(f"the edges {name!r} name position {pos}; the prompt has {n_pos} tokens, counted from 0")
    cut = torch.zeros(n_pos, n_pos, dtype=torch.bool)
    for query in queries:
        cut[query, list(keys)] = True
        if cut[query, : query + 1].all():
            raise ValueError(f"the edges {name!r} leave position {query} nothing to read; keep one token for it")
    return cut


def _scored(model: LanguageModel, question: Question, ids: Tensor, cut: Tensor, windows: Sequence[range]) -> Tensor:
    """[window], log-probability of the answer with the edges cut in that window's layers; one row each."""
    by_layer = {
        layer: torch.stack([cut & (layer in window) for window in windows])
        for layer in range(model.n_layers)
        if any(layer in window for window in windows)
    }
    with edges_cut(model, by_layer):
        logits = model.logits(ids.expand(len(windows), -1))
    return answer_log_prob(question, logits)


def _check_cutting(model: LanguageModel, ids: Tensor, clean: Tensor) -> None:
    """Check on this model that cut edges are cut and that no others are.

    With no edge cut the logits are the clean ones; with all edges of the last position cut but that to itself, they
    depend on its own token alone.

    Raises:
        ValueError: if either fails.
    """
    n_pos = ids.shape[1]
    none = torch.zeros(1, n_pos, n_pos, dtype=torch.bool)
    every = none.clone()
    every[0, -1, :-1] = True
    others = ids.clone()
    others[0, :-1] = (ids[0, :-1] + 1) % model.d_vocab
    layers = range(model.n_layers)
    with edges_cut(model, dict.fromkeys(layers, none)):
        same = model.logits(ids)
    with edges_cut(model, dict.fromkeys(layers, every)):
        alone, alone_too = (model.logits(row)[0, -1] for row in (ids, others))
    tolerance = TOLERANCE if model.dtype in (torch.float32, torch.float64) else 30 * TOLERANCE
    if not (_close(same, clean, tolerance) and _close(alone, alone_too, tolerance)):
        raise ValueError(f"the attention of {model.architecture.family} models cannot be cut exactly by its mask")


def _close(logits: Tensor, other: Tensor, tolerance: float) -> bool:
    return float((logits - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))
