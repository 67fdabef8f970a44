"""The outer loss of a learned weight editor: what a batch of edits does to their prompts, paraphrases and bystanders.

One forward serves all episodes: each episode's rows (edit prompt, paraphrases, locality) see the change of its own
group of edits, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.train.episodes import Episode
from editing.train.forward import Forward
from editing.train.rows import Encoder, LowRank, Rows


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """Episodes as rows; every episode has the same number."""

    episodes: tuple[Episode, ...]
    inner: Rows
    """[edit] rows: the edit prompt with the new answer."""
    outer: Rows
    """[edit x (1 + paraphrases + locality)] rows, episode by episode."""
    kinds: tuple[str, ...]
    """Of each outer row: "edit", "paraphrase" or its locality kind."""
    base: Tensor
    """[locality token, d_vocab], the unedited model's log probabilities."""
    base_right: Tensor
    """[locality row] bool: whether the unedited model gives the answer there."""

    @property
    def held(self) -> Tensor:
        """[outer row] bool: the locality rows."""
        return torch.tensor([kind not in ("edit", "paraphrase") for kind in self.kinds])

    def of_kind(self, *kinds: str) -> Tensor:
        """[outer row] bool"""
        return torch.tensor([kind in kinds for kind in self.kinds])


@dataclass(frozen=True, eq=False)
class Outcome:
    """The edited model's results on the outer rows."""

    nll: Tensor
    """[edit or paraphrase row], nats: of the new answer."""
    kl: Tensor
    """[locality row], nats: KL(base || edited), mean over the answer's tokens."""
    right: Tensor
    """[outer row] bool: the row's answer is the greedy one."""


class BatchBuilder:
    """Makes batches; reads each locality prompt once with the unedited model."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.encoder = Encoder(forward.view)
        self._base: dict[tuple[str, str], Tensor] = {}

    def batch(self, episodes: Sequence[Episode]) -> EpisodeBatch:
        """The episodes as rows.

        Raises:
            ValueError: if they do not have equally many rows.
        """
        pairs: list[tuple[str, str]] = []
        kinds: list[str] = []
        for episode in episodes:
            request, new = episode.request, episode.request.target_new
            pairs += [(request.fact.prompt, new), *((prompt, new) for prompt in episode.paraphrases)]
            pairs += [(kept.prompt, kept.answer) for kept in episode.locality]
            kinds += ["edit", *("paraphrase" for _ in episode.paraphrases), *(kept.kind for kept in episode.locality)]
        if len({(len(episode.paraphrases), len(episode.locality)) for episode in episodes}) != 1:
            raise ValueError("the episodes of one batch have different numbers of prompts")
        inner = self.encoder.rows([(e.request.fact.prompt, e.request.target_new) for e in episodes])
        outer = self.encoder.rows(pairs)
        held = [(kept.prompt, kept.answer) for episode in episodes for kept in episode.locality]
        base, base_right = self._unedited(held)
        return EpisodeBatch(tuple(episodes), inner, outer, tuple(kinds), base, base_right)

    @torch.no_grad()
    def _unedited(self, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._base]
        if new:
            rows = self.encoder.rows(new)
            log_probs = self.forward.log_probs(rows)
            for index, pair in enumerate(new):
                # half precision: thousands of these are kept, and the terms that count are near 0
                self._base[pair] = log_probs[rows.row == index].half()
        base = torch.cat([self._base[pair].float() for pair in pairs])
        return base, self.encoder.rows(pairs).right(base)


def outcome(forward: Forward, batch: EpisodeBatch, changes: Mapping[str, LowRank]) -> Outcome:
    """Run the outer rows with the changes of single edits, or of sums over groups of edits."""
    with forward.changed(changes):
        log_probs = forward.log_probs_by_length(batch.outer)
    held = batch.held.to(log_probs.device)
    held_token = held[batch.outer.row]
    moved = torch.nn.functional.kl_div(log_probs[held_token], batch.base, log_target=True, reduction="none").sum(-1)
    kl = torch.zeros(len(log_probs), device=log_probs.device).index_put((held_token.nonzero()[:, 0],), moved)
    return Outcome(
        nll=batch.outer.nll(log_probs)[~held],
        kl=batch.outer.row_means(kl)[held],
        right=batch.outer.right(log_probs.detach()),
    )


def shares(batch: EpisodeBatch, result: Outcome) -> dict[str, tuple[int, int]]:
    """(successes, cases) by figure: new answers at edit prompts and paraphrases; of the locality prompts the unedited
    model answered, by kind and in all, those still answered."""
    counts = {
        "reliability": _count(result.right, batch.of_kind("edit")),
        "generalization": _count(result.right, batch.of_kind("paraphrase")),
    }
    knew = torch.zeros(len(batch.kinds), dtype=torch.bool)
    knew[batch.held] = batch.base_right
    for name, kinds in (
        ("locality_same_relation", ("same_relation",)),
        ("locality_same_subject", ("same_subject",)),
        ("locality", ("same_relation", "same_subject", "random")),
    ):
        counts[name] = _count(result.right, batch.of_kind(*kinds) & knew)
    return counts


def _count(right: Tensor, chosen: Tensor) -> tuple[int, int]:
    return int((right & chosen).sum()), int(chosen.sum())
