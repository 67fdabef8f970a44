"""Unwanted changes by an edit: divergence of next-token distributions, perplexity of neutral texts.

Perplexity as a guard against a model that an edit broke while its edit scores look fine: Yang et al. 2024
(arXiv:2402.09656).  Divergence at neighbours: Hoelscher-Obermaier et al. 2023 (CounterFact+, arXiv:2305.17553).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch

from metrics.asking.kept import answers
from metrics.asking.logprobs import batches, token_ids
from metrics.asking.together import MOST_LOGITS
from models.forwards.tree import LONGEST, MOST_NODES, Tree, TreeForward, shares_beginnings

if TYPE_CHECKING:
    from models import LanguageModel


def kl_divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """KL(before || after) in nats, from log probabilities [d_vocab]; rounding below zero is cut."""
    return max(0.0, float((before.exp() * (before - after)).sum()))


def text_nll(
    model: LanguageModel,
    texts: Sequence[str],
    tick: Callable[[int], None] = lambda _: None,
    max_positions: int | None = None,
) -> list[tuple[float, int]]:
    """Per text (summed negative log probability in nats, number of predicted tokens).

    The first token is not predicted.  A text is cut at `max_positions`, by default the context's length; one of fewer
    than two tokens gives (0, 0).
    """
    rows = [tuple(row) for row in token_ids(model, texts, max_positions)]
    sums: dict[Row, tuple[float, int]] = {}
    for start in range(0, len(rows), TOGETHER):
        sums |= _known_nll(model, tuple(row for row in rows[start : start + TOGETHER] if len(row) >= 2), tick)
    return [sums.get(row, (0.0, 0)) for row in rows]


Row = tuple[int, ...]
TOGETHER = 20
"""Texts read together, as many as the check on ordinary text reads.  The last digit of a number depends on what is read
with it, so a whole group is one question: its numbers are the same whatever was asked before."""


def _known_nll(
    model: LanguageModel, group: tuple[Row, ...], tick: Callable[[int], None]
) -> dict[Row, tuple[float, int]]:
    def ask(new: list[tuple[Row, ...]]) -> dict[tuple[Row, ...], dict[Row, tuple[float, int]]]:
        return {rows: _nll(model, rows, tick) for rows in new}

    return answers(model, [group], ask, lambda _: tick(len(group)), edited=True)[group]


CACHED = 2**19
"""Entries of logits that are reduced at once: 2 MB."""


def _nll(model: LanguageModel, rows: Sequence[Row], tick: Callable[[int], None]) -> dict[Row, tuple[float, int]]:
    sums: dict[Row, tuple[float, int]] = {}
    bare = model.bare
    whole = {row: (list(row), 0) if bare is model else model.behind_prefix(row) for row in rows}
    together = {row: behind for row, (behind, _) in sorted(whole.items()) if len(behind) <= LONGEST}
    most = max(1, min(MOST_NODES, MOST_LOGITS // model.d_vocab))
    for some in _trees(together, most) if rows and shares_beginnings(bare) else ():
        tree, paths = Tree(), dict[Row, list[int]]()
        for row in some:
            behind, front = whole[row]
            path = tree.add(behind[:-1])  # nothing is read behind the last token
            paths[row] = path[:front] + path[front + len(behind) - len(row) :]
        places = {node: place for place, node in enumerate(dict.fromkeys(chain(*paths.values())))}
        logits = TreeForward(bare, tree, list(places)).logits
        normalisers = _normalisers(logits)
        for row, path in paths.items():
            read = [places[node] for node in path]
            sums[row] = _summed(logits[read], normalisers[read], row), len(row) - 1
        tick(len(some))
    apart = [row for row in rows if row not in sums]
    # in batches by what is read, words before a text included
    lengths = {row: len(behind) for row, (behind, _) in whole.items()}
    for chunk in batches(apart, lengths, {row: len(row) - 1 for row in apart}, model.d_vocab):
        found = model.logits_where(chunk, [range(len(row) - 1) for row in chunk])
        for row, own in zip(chunk, found, strict=True):
            sums[row] = _summed(own, _normalisers(own), row), len(row) - 1
        tick(len(chunk))
    return sums


def _normalisers(logits: torch.Tensor) -> torch.Tensor:
    """logsumexp of [pos, d_vocab]: [pos]; in parts that the processor's cache holds."""
    return torch.cat([some.logsumexp(-1) for some in logits.split(max(1, CACHED // logits.shape[-1]))])


def _trees(rows: Mapping[Row, Sequence[int]], most: int) -> Iterator[list[Row]]:
    """Rows whose trees have at most so many nodes behind the first fork; each with its tokens as they are read."""
    some, tree = list[Row](), Tree()
    for row, behind in rows.items():
        if tree.behind_fork(behind[:-1]) > most:
            yield some
            some, tree = [], Tree()
        some.append(row)
        tree.add(behind[:-1])
    if some:
        yield some


def _summed(logits: torch.Tensor, normalisers: torch.Tensor, row: Row) -> float:
    """-sum ln P of the tokens behind the first, from logits [pos, d_vocab] and their logsumexp [pos]."""
    following = torch.tensor(row[1:], device=logits.device)
    return float((normalisers.double() - logits.gather(-1, following[:, None])[:, 0].double()).sum())


def count_scorable(model: LanguageModel, texts: Sequence[str]) -> int:
    """Number of texts with at least two tokens."""
    return sum(len(row) >= 2 for row in token_ids(model, texts))
