"""Run a model on a packed sequence: many suffixes of one prompt side by side, each reading the same prefix.

A packed forward needs three things from transformers: read-only keys and values of an earlier forward, an attention
pattern that is not causal, and, for GPT-Neo, a place to put that pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import __version__ as TRANSFORMERS
from transformers.cache_utils import DynamicCache

from models.language_model import LanguageModel
from models.views import plain

__all__ = [
    "TRANSFORMERS",
    "KeysValues",
    "PrefixCache",
    "RecordingCache",
    "packed_inputs",
    "packed_mask",
    "packed_pattern",
    "plain",
]

KeysValues = tuple[Tensor, Tensor]
"""One layer's keys and values, each [row, head, pos, d_head]."""


class RecordingCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Keeps every layer's keys and values of one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, KeysValues] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeysValues:
        """Keep them and return them."""
        self.kept[layer_idx] = keys, values
        return keys, values

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """There is no prefix."""
        return 0


class PrefixCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Prepends the keys and values of the first `length` positions to those of every row; it is never written to.

    Args:
        kept: by layer, keys and values of one row or of as many rows as samples.
        length: positions of the prefix.
        samples: rows of a block; the batch has any number of blocks, or one row before the first block joins.
    """

    def __init__(self, kept: Mapping[int, KeysValues] | Sequence[KeysValues], length: int, samples: int) -> None:
        super().__init__()
        self._kept, self._length, self._samples = kept, length, samples

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeysValues:
        """[row, head, prefix + pos, d_head] each."""
        if self._length == 0:
            return keys, values
        before, behind = self._kept[layer_idx]
        return self._joined(before, keys), self._joined(behind, values)

    def _joined(self, prefix: Tensor, own: Tensor) -> Tensor:
        rows, heads, pos, width = own.shape
        out = own.new_empty(rows, heads, self._length + pos, width)
        samples = min(self._samples, rows)
        out.unflatten(0, (-1, samples))[:, :, :, : self._length] = prefix[:samples, :, : self._length].to(own.device)
        out[:, :, self._length :] = own
        return out

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """Length of the prefix."""
        return self._length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0, *_: Any, **__: Any) -> tuple[int, int]:
        """(keys, offset of the first key)."""
        return self._length + query_length, 0

    def get_query_offset(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """Keys before the first query."""
        return self._length


def packed_inputs(
    model: LanguageModel, positions: Tensor, allowed: Tensor, distance: Tensor, cache: PrefixCache
) -> dict[str, Any]:
    """Keyword arguments of a forward on one row of packed positions; its embeddings are zeros, to be replaced.

    Args:
        positions: [pos], the prompt position of each packed one.
        allowed: [pos, prefix + pos], whether a query may read a key.
        distance: [pos, prefix + pos], prompt positions from the key to the query.
        cache: the prefix.
    """
    width = model.weight(f"{model.architecture.embedding}.weight").shape[1]
    return {
        "inputs_embeds": torch.zeros(1, len(positions), width, dtype=model.dtype, device=model.device),
        "position_ids": positions[None].to(model.device),
        "attention_mask": packed_mask(model, allowed, distance),
        "past_key_values": cache,
        "use_cache": True,
    }


def packed_mask(model: LanguageModel, allowed: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
    """Numbers to add to attention scores, [1, 1, pos, prefix + pos]; by kind of layer where some read a window.

    Args:
        allowed: [pos, prefix + pos], whether a query may read a key.
        distance: [pos, prefix + pos], prompt positions from the key to the query.
    """
    config = model.module.config
    window = getattr(config, "sliding_window", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return _additive(model, allowed)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    masks = {"full_attention": allowed, "sliding_attention": allowed & (distance < window)}
    if len(kinds) == 1:
        return _additive(model, masks[kinds.pop()])
    return {kind: _additive(model, mask) for kind, mask in masks.items()}


def _additive(model: LanguageModel, allowed: Tensor) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=model.dtype, device=model.device)
    return mask.masked_fill_(~allowed.to(model.device), torch.finfo(model.dtype).min)[None, None]


@contextmanager
def packed_pattern(
    model: LanguageModel, allowed: Tensor, distance: Tensor, ends: Tensor | None = None
) -> Iterator[None]:
    """While open, GPT-Neo's attention reads the packed pattern; other families are given it as a mask.

    Besides the mask, each GPT-Neo attention has causal and local patterns.  They are replaced by one mask, which saves
    two copies of all scores.  The caller holds the model's lock.

    Args:
        ends: the only positions whose attention is wanted in the last layer; zeros are given for the others.
    """
    if model.architecture.family != "gpt_neo":
        yield
        return
    modules: list[Any] = [module for module in model.module.modules() if hasattr(module, "attention_type")]
    modules = [module for module in modules if hasattr(module, "_attn")]
    near = allowed & (distance < model.module.config.window_size)
    patterns = {"local": _scores_mask(model, near), "global": _scores_mask(model, allowed)}
    try:
        for module in modules:
            last = module is modules[-1]
            module.__dict__["_attn"] = _attention(patterns[module.attention_type], ends if last else None)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("_attn", None)


def _scores_mask(model: LanguageModel, allowed: Tensor) -> Tensor:
    """In float32, as GPT-Neo's scores are whatever its weights are."""
    mask = torch.zeros(allowed.shape, device=model.device)
    return mask.masked_fill_(~allowed.to(model.device), torch.finfo(mask.dtype).min)


def _attention(mask: Tensor, ends: Tensor | None) -> Callable[..., tuple[Tensor, Tensor]]:
    """GPT-Neo's attention of [row, head, pos, d_head] queries, keys and values, which it does not scale."""

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        chosen, pattern = (query, mask) if ends is None else (query[:, :, ends], mask[ends])
        scores = torch.matmul(chosen.float(), key.float().transpose(-1, -2)).add_(pattern.to(query.device))
        weights = scores.softmax(-1).to(value.dtype)
        read = torch.matmul(weights, value)
        if ends is None:
            return read, weights
        out = torch.zeros_like(query, dtype=read.dtype)
        out[:, :, ends] = read
        return out, weights

    return attend
