"""Edits made by hand, one of every kind of operation, for tests that need no method."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editing import Edit, RomeConfig
from editing.applied.codebook import fold
from editing.methods.wise import WiseConfig
from editing.ops import CodebookOp, DenseDelta, Op, PromptOp, RouteOp, SideOp, WeightDelta
from facts import EditRequest, Fact
from models import LanguageModel, as_out_in, run

REQUEST = EditRequest(Fact("Space Needle", "The {} is in", "Seattle"), "Paris")
PROMPT = "The Space Needle is in"
OTHER = "Miles Davis plays the"
IDS = torch.tensor([[40, 77, 130, 9, 250, 300], [3, 8, 201, 99, 17, 310]])


def made(model: LanguageModel, *ops: Op, method: str = "rome") -> Edit:
    """An edit of these operations."""
    config = RomeConfig(0) if method == "rome" else WiseConfig(layer=0)
    return Edit(method, (REQUEST,), config, ops, model.revision)


def low_rank(model: LanguageModel, layer: int, seed: int) -> WeightDelta:
    """A random change of rank two."""
    generator = torch.Generator().manual_seed(seed)
    rows = 0.3 * torch.randn(model.d_model, 2, generator=generator)
    cols = torch.randn(2, model.d_mlp, generator=generator)
    return WeightDelta(model.architecture.key_weight_name(layer), rows, cols)


def dense(model: LanguageModel, layer: int, seed: int) -> DenseDelta:
    """A random change of every entry."""
    generator = torch.Generator().manual_seed(seed)
    change = 0.2 * torch.randn(model.d_model, model.d_mlp, generator=generator)
    return DenseDelta(model.architecture.key_weight_name(layer), change)


def last_key(model: LanguageModel, layer: int, prompt: str) -> torch.Tensor:
    """[d_mlp], what the layer reads at the prompt's last token."""
    ids = torch.tensor([model.encode(prompt)])
    return run(model, ids, captures=[("mlp_key", layer)]).captured["mlp_key", layer][0, -1]


def entry(
    model: LanguageModel, layer: int, prompt: str = PROMPT, radius: float = 0.01, where: str = "last", label: int = 5
) -> CodebookOp:
    """A codebook entry at a prompt's key, with a loud value."""
    value = 3 * torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(label))
    key = last_key(model, layer, prompt)[None]
    return CodebookOp(model.architecture.key_path(layer), key, value, ((label,),), radius, where)  # type: ignore[arg-type]


def aside(model: LanguageModel, layer: int, seed: int, *, shard: int = 0, activation: float = 0.0) -> SideOp:
    """A random change of some entries of a side weight; with an activation of 0 every row takes it."""
    generator = torch.Generator().manual_seed(seed)
    name = model.architecture.key_weight_name(layer)
    d_out, d_in = as_out_in(model.key_module(layer), model.weight(name)).shape
    index = torch.randperm(d_out * d_in, generator=generator)[:200].sort().values
    return SideOp(name, (d_out, d_in), index, torch.randn(200, generator=generator), shard, activation, 0.9)


def stated(model: LanguageModel, text: str, demonstrations: Sequence[str] = (), reserve: int = 30) -> PromptOp:
    """A fact, behind demonstrations."""
    shown = tuple(tuple(model.tokenize(one)) for one in demonstrations)
    return PromptOp(shown, tuple(model.tokenize(text)), (), reserve)


def route(model: LanguageModel, context: str) -> RouteOp:
    """A memory entry in whose scope is what the router of the test says."""
    return RouteOp(torch.zeros(1, 2), (tuple(model.tokenize(context)),), ("Space Needle",), 0.5, "r" * 64)


__all__ = ["IDS", "OTHER", "PROMPT", "REQUEST", "aside", "dense", "entry", "fold", "last_key", "low_rank", "made"]
