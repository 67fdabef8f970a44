"""One forward of many rows in which every beginning that rows share is computed once.

The rows' tokens form a tree.  Its nodes lie side by side in one packed row, where a token reads its ancestors alone
(`models.forwards.packing`), and the head is given only the nodes whose logits are read.  Decoding goes on from the keys
and values of that forward.  Whether a model gives the same this way as row by row is measured once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from models.forwards.packing import packed_mask, packed_pattern
from models.forwards.partial import logits_of
from models.language_model import LanguageModel

MOST_NODES = 512
"""Nodes of a packed row behind the first fork: its attention scores are a square of all nodes."""
LONGEST = 4 * MOST_NODES
"""Tokens of a row, at most."""
TOLERANCE = 1e-4
"""Largest difference of logits from those of rows alone, in units of the largest, in float32."""
FINDING = "shared beginnings"
"""Key of `LanguageModel.findings`."""


class Tree:
    """Rows of token ids, joined where they begin alike."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """[node], token ids; a node stands behind its parent."""
        self.depths: list[int] = []
        """[node], position in its row."""
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, row: Sequence[int]) -> list[int]:
        """Add a row and return its nodes."""
        path: list[int] = []
        for depth, token in enumerate(row):
            parent = path[-1] if path else -1
            node = self._children.setdefault((parent, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
                self._parents.append(parent)
            path.append(node)
        return path

    def child(self, node: int, token: int) -> int | None:
        """The node of `token` behind a node, if a row has it."""
        return self._children.get((node, token))

    def new_nodes(self, row: Sequence[int]) -> int:
        """How many nodes a row would add."""
        node, known = -1, 0
        while known < len(row) and (node, row[known]) in self._children:
            node, known = self._children[node, row[known]], known + 1
        return len(row) - known

    def behind_fork(self, row: Sequence[int]) -> int:
        """How many nodes would stand behind the first fork, with one more row."""
        new = self.new_nodes(row)
        forks = (parent + 1 for node, parent in enumerate(self._parents) if parent != node - 1)
        return len(self) + new - min((len(row) - new, *forks)) if len(self) else 0

    @property
    def ancestors(self) -> Tensor:
        """[node, node], whether a node may read another: itself and those before it in its rows."""
        reads = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                reads[node] |= reads[parent]
        return reads


class TreeForward:
    """The forward of a tree: logits at some nodes, and what decoding needs to go on from any.

    Args:
        nodes: those whose logits are read.
    """

    def __init__(self, model: LanguageModel, tree: Tree, nodes: Sequence[int]) -> None:
        self.tree, self._cache = tree, DynamicCache()
        depths, allowed = torch.tensor(tree.depths), tree.ancestors
        distance = depths[:, None] - depths[None]
        inputs = {
            "input_ids": torch.tensor([tree.ids], device=model.device),
            "position_ids": depths[None].to(model.device),
            "attention_mask": packed_mask(model, allowed, distance),
            "past_key_values": self._cache,
            "use_cache": True,
        }
        places = torch.zeros(len(nodes), dtype=torch.long), torch.tensor(nodes, dtype=torch.long)
        with model.lock, packed_pattern(model, allowed, distance):
            self.logits = logits_of(model, inputs, places)
        """[n, d_vocab], float32, of the nodes in the order given."""

    def keys_values(self, paths: Sequence[Sequence[int]], width: int) -> list[tuple[Tensor, Tensor]]:
        """By layer, the keys and values of these nodes' rows, padded on the left: [row, head, width, d_head] each."""
        index = torch.tensor([[0] * (width - len(path)) + list(path) for path in paths])
        return [(_chosen(layer.keys, index), _chosen(layer.values, index)) for layer in self._cache.layers]


def _chosen(kept: Tensor, index: Tensor) -> Tensor:
    """[row, head, pos, d_head] of [1, head, node, d_head]."""
    return kept[0].transpose(0, 1)[index.to(kept.device)].transpose(1, 2)


def joined_cache(parts: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> DynamicCache:
    """A cache of the rows of several forwards, of one width."""
    cache = DynamicCache()
    for layer, several in enumerate(zip(*parts, strict=True)):
        keys, values = (torch.cat(some) for some in zip(*several, strict=True))
        cache.update(keys, values, layer)
    return cache


def shares_beginnings(model: LanguageModel) -> bool:
    """Whether a tree's forward gives this model's logits; measured once, on a tree of a few tokens.

    Never in half precision, whose rounding differs too much for a check, nor where an edit decides by the prompt.
    """
    if model.dtype != torch.float32 or not model.packable:
        return False
    if FINDING not in model.findings:
        model.findings[FINDING] = "exact" if _agrees(model) else "not exact"
    return model.findings[FINDING] == "exact"


def _agrees(model: LanguageModel) -> bool:
    lead = [*model.lead_ids]
    rows = [[*lead, *(token % model.d_vocab for token in row)] for row in ((11, 12, 13), (11, 14, 15, 16), (17, 11))]
    tree = Tree()
    paths = [tree.add(row) for row in rows]
    try:
        shared = TreeForward(model, tree, [path[-1] for path in paths])
        shared.keys_values(paths, max(map(len, rows)))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError):
        return False  # a family without such a cache, or that does not take such a mask
    alone = torch.stack([model.logits(torch.tensor([row]))[0, -1] for row in rows])
    return float((shared.logits - alone).abs().max()) <= TOLERANCE * float(alone.abs().max())
