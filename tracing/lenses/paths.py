"""Path patching: the effect of one state on the answer through one other module only.

Wang et al. 2022 (arXiv:2211.00593, appendix B); Goldowsky-Dill et al. 2023 (arXiv:2304.05969).
For a sender s and a receiver r:

1. the base run with the source run's state at s and every other attention and MLP output held at its base value, so
   that r reads the change through the residual stream alone; r's output is noted
2. the base run with r's output replaced by the noted one, everything after it computed as usual

    effect(s -> r) = P(answer | r as noted) - P(answer | base)      (noising: with the sign turned)

The receiver "logits" is step 1's own prediction: the direct path from s to the head.  With `through = "mlps"` MLPs
between s and r are computed rather than held, as in Wang et al.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, run
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel
from tracing.lenses.pair import Key, Pair, PairResult, Patch, make_pair
from tracing.statistics import interval

NodeSite = Literal["resid_post", "mlp_out", "attn_out"]
ReceiverSite = Literal["mlp_out", "attn_out"]
Through = Literal["nothing", "mlps"]
MODULES: tuple[ReceiverSite, ...] = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Node:
    """One state: a site at a layer and a position."""

    site: NodeSite
    layer: int
    pos: int

    def __str__(self) -> str:
        return f"{self.site} {self.layer} @ {self.pos}"


@dataclass(frozen=True, eq=False)
class PathResult(PairResult):
    """The effects of a sender through each receiver."""

    KIND: ClassVar[str] = "engram-paths-1"
    NESTED: ClassVar[dict[str, type]] = {"config": TraceConfig, "sender": Node, "receivers": Node}

    through: Through
    sender: Node
    receivers: tuple[Node, ...]
    clean: float
    """Probability of the answer in the clean run."""
    base: NDArray[np.float32]
    """[sample], probability of the answer in the base run: the corrupted one for denoising."""
    patched: NDArray[np.float32]
    """[receiver, sample], probability of the answer with the path patched."""
    direct: NDArray[np.float32]
    """[sample], the same for the direct path to the logits."""

    @property
    def effects(self) -> NDArray[np.float64]:
        """[receiver + 1, sample], effect of every path, the direct one to the logits last; in probability."""
        gained = np.concatenate([self.patched, self.direct[None]]).astype(np.float64) - self.base
        return -gained if self.config.direction == "noising" else gained

    @property
    def effect(self) -> NDArray[np.float32]:
        """[receiver], mean effect over samples, as a difference of probabilities."""
        return self.effects[:-1].mean(axis=1).astype(np.float32)

    def to_frame(self) -> pd.DataFrame:
        """One row per receiver, the logits last: receiver, site, layer, position, effect, effect_low, effect_high."""
        low, high = interval(self.effects, axis=1)
        nodes = [(str(node), node.site, node.layer, node.pos) for node in self.receivers]
        frame = pd.DataFrame(
            [*nodes, ("logits", "logits", -1, len(self.tokens) - 1)], columns=["receiver", "site", "layer", "position"]
        )
        return frame.assign(effect=self.effects.mean(axis=1), effect_low=low, effect_high=high)


def path_patching(
    model: LanguageModel,
    fact: Fact,
    sender: Node,
    receivers: Sequence[Node] | None = None,
    config: TraceConfig | None = None,
    *,
    through: Through = "nothing",
    level: NoiseLevel | None = None,
    watch: Watch = UNWATCHED,
) -> PathResult:
    """Patch the path from one state into each receiver.

    Args:
        receivers: attention and MLP outputs; by default all after the sender, at the prompt's last position.
        config: corruption, direction, samples and seed; its site, window and severed module play no part.
        through: what is computed rather than held between sender and receiver.
        watch: told (receivers done, receivers in all).

    Raises:
        Cancelled: when `watch` said so, at most one forward pass later.
        ValueError: if a node does not exist in the model or the prompt, or as `causal_trace`.
    """
    config = config or TraceConfig()
    if through not in get_args(Through):
        raise ValueError(f"through is {through!r}; choose from {', '.join(get_args(Through))}")
    pair = make_pair(model, fact, config, level)
    receivers = _behind(pair, sender) if receivers is None else receivers
    _check(model, pair, sender, receivers)
    everything = slice(None)
    keys: list[Key] = [(site, layer) for layer in range(model.n_layers) for site in MODULES]
    base, source = pair.states([*keys, (sender.site, sender.layer)], everything)
    noted, direct = _noted(pair, sender, base, source, keys, through)
    patched = []
    for number, node in enumerate(receivers, 1):
        key = (node.site, node.layer)
        patch = {key: _written(node.pos, noted[key][:, node.pos])}
        ids = pair.ids.expand(pair.n_samples, -1)
        patched.append(pair.answer(run(model, ids, patches=pair.base(everything) | patch).logits))
        watch.step(number, len(receivers))
    clean, corrupted = pair.log_probs()
    started = torch.full_like(corrupted, clean) if pair.noising else corrupted
    return PathResult(
        **pair.described(fact, config),
        through=through,
        sender=sender,
        receivers=tuple(receivers),
        clean=float(np.exp(clean)),
        base=started.exp().numpy(),
        patched=torch.stack(patched).exp().cpu().numpy() if patched else np.zeros((0, pair.n_samples), np.float32),
        direct=direct.exp().cpu().numpy(),
    )


def _behind(pair: Pair, sender: Node) -> list[Node]:
    """Attention and MLP outputs that are computed after the sender, at the prompt's last position."""
    first, last = sender.layer + (sender.site != "attn_out"), pair.question.n_prompt - 1
    nodes = [Node(site, layer, last) for layer in range(first, pair.model.n_layers) for site in MODULES]
    return [node for node in nodes if (node.site, node.layer) != (sender.site, sender.layer)]


def _noted(
    pair: Pair,
    sender: Node,
    base: dict[Key, Tensor],
    source: dict[Key, Tensor],
    keys: Sequence[Key],
    through: Through,
) -> tuple[dict[Key, Tensor], Tensor]:
    """(what every module would write [sample, pos, d_model], log-probability of the answer by the direct path)."""
    noted: dict[Key, Tensor] = {}
    sent = (sender.site, sender.layer)

    def note(key: Key) -> Patch:
        held = None if through == "mlps" and key[0] == "mlp_out" else base[key]

        def patch(state: Tensor) -> Tensor:
            # copies, since Falcon adds to what it is given in place
            noted[key] = state.clone()
            return state if held is None else held.clone()

        return patch

    patches = pair.base(slice(None)) | {key: note(key) for key in keys}
    sending = _written(sender.pos, source[sent][:, sender.pos])
    before = patches.get(sent)
    patches[sent] = sending if before is None else lambda state: sending(before(state))
    logits = run(pair.model, pair.ids.expand(pair.n_samples, -1), patches=patches).logits
    return noted, pair.answer(logits)


def _written(pos: int, values: Tensor) -> Patch:
    """A patch that writes [sample, d_model] at one position."""

    def patch(state: Tensor) -> Tensor:
        state[:, pos] = values
        return state

    return patch


def _check(model: LanguageModel, pair: Pair, sender: Node, receivers: Sequence[Node]) -> None:
    for node in (sender, *receivers):
        allowed = get_args(NodeSite if node is sender else ReceiverSite)
        if node.site not in allowed:
            raise ValueError(f"{node.site!r} cannot stand in {str(node)!r}; choose from {', '.join(allowed)}")
        if not (0 <= node.layer < model.n_layers and 0 <= node.pos < pair.question.n_prompt):
            raise ValueError(
                f"there is no state {str(node)!r}: {model.name} has layers 0 to {model.n_layers - 1} and the prompt "
                f"positions 0 to {pair.question.n_prompt - 1}"
            )
