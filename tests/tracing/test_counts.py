"""What a map costs, counted: positions run through layers, calls of a layer, kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models import LanguageModel
from models.forwards.hooks import run_hooked
from tests.tiny import build_tiny
from tracing import TraceConfig
from tracing.engine import plan
from tracing.engine.engine import Engine, TracedPrompt
from tracing.engine.plan import Cell, Chunk, Pack, chunks, end_to_end, lay_out, packs, split
from tracing.engine.question import Question
from tracing.sites import TraceSite

LENGTH, SAMPLES, LAYERS = 12, 10, 12  # GPT-2 small, twelve tokens, ten samples
KERNELS_PER_LAYER = 55
VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "split", "unsqueeze"}
VIEWS |= {"detach", "alias", "unbind", "squeeze", "as_strided", "reshape", "unflatten", "_reshape_alias", "lift_fresh"}


def engine_of(subject: range, config: TraceConfig) -> Engine:
    model = LanguageModel("thin", "0", *build_tiny("gpt2", num_hidden_layers=LAYERS))
    ids = tuple(torch.randint(2, 300, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist())
    question = Question(ids, LENGTH, (7,), subject)
    embeddings = torch.randn(SAMPLES, len(subject), model.d_model, generator=torch.Generator().manual_seed(1))
    return Engine(model, [TracedPrompt(question, embeddings, range(LENGTH), None)], [config], "packed", run_hooked)


def run(engine: Engine) -> None:
    list(engine.run(range(SAMPLES), lambda _: None))


@contextmanager
def counted_blocks(model: LanguageModel) -> Iterator[list[tuple[int, int, int]]]:
    """(layer, rows, positions) of every call of a block while open."""
    calls: list[tuple[int, int, int]] = []
    handles = []
    for layer in range(model.n_layers):

        def note(_: object, args: tuple[Tensor, ...], layer: int = layer) -> None:
            calls.append((layer, args[0].shape[0], args[0].shape[1]))

        handles.append(model.module.get_submodule(model.architecture.block(layer)).register_forward_pre_hook(note))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("subject", "expected"), [(range(0, 3), 51_480), (range(5, 8), 18_480)])
@pytest.mark.parametrize("batch_size", [None, 7, 10_000])
def test_positions_run_through_layers(subject: range, expected: int, batch_size: int | None) -> None:
    """samples x sum over layers (L - 1 - l) x sum over positions (T - t), however the work is split."""
    engine = engine_of(subject, TraceConfig(batch_size=batch_size))
    with counted_blocks(engine.model) as calls:
        run(engine)
    captured = sum(rows * positions for _, rows, positions in calls if positions == LENGTH and rows == SAMPLES + 1)
    dummies = sum(rows * positions for layer, rows, positions in calls if layer == 0 and rows == 1)
    ran = sum(rows * positions for _, rows, positions in calls) - dummies
    assert captured in (0, (SAMPLES + 1) * LENGTH * LAYERS)
    if batch_size is None:
        assert ran - captured == expected
    # a batch size splits the capture and lets rows wait as dummies: the restored runs themselves are the same
    cells = [Cell(layer, range(layer, layer + 1)) for layer in range(LAYERS - 1)]
    (stretch,) = end_to_end([(LENGTH, 1)])
    where = [(stretch, pos) for pos in range(subject.start, LENGTH)]
    total = 0
    for pack in packs(where, d_model=32, rows=len(cells) * SAMPLES):
        for chunk in chunks(pack, cells, range(SAMPLES), batch_size or 10):
            blocks = lay_out(chunk.cells, of_block_outputs=True)
            layers_run = sum(LAYERS - 1 - block.joins for block in blocks)
            total += layers_run * pack.size * len(chunk.samples)
    assert total == expected


def test_every_layer_is_called_twice_and_launches_few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PACK_LIMIT", 100.0)
    engine = engine_of(range(0, 3), TraceConfig(batch_size=10_000))
    run(engine)
    engine = engine_of(range(0, 3), TraceConfig(batch_size=10_000))
    with counted_blocks(engine.model) as calls:
        run(engine)
    assert [layer for layer, _, _ in calls] == [*range(LAYERS)] * 2

    class Counter(TorchDispatchMode):
        kernels = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.kernels += func.overloadpacket.__name__ not in VIEWS
            return func(*args, **(kwargs or {}))

    engine = engine_of(range(0, 3), TraceConfig(batch_size=10_000))
    with Counter() as counter:
        run(engine)
    assert LAYERS * 20 < counter.kernels <= LAYERS * KERNELS_PER_LAYER


@pytest.mark.parametrize("site", ["mlp_out", "resid_post"])
def test_windows_that_begin_together_share_their_rows(site: TraceSite) -> None:
    config = TraceConfig(site=site, window=3)
    cells = [Cell(layer, config.layers_of(layer, 5)) for layer in range(5)]
    blocks = lay_out(cells, of_block_outputs=site == "resid_post")
    assert sorted(column for block in blocks for column in block.columns) == [0, 1, 2, 3, 4]
    (fork,) = [block for block in blocks if block.origin is not None]
    chain = blocks[fork.origin or 0]
    assert (fork.columns, chain.columns) == ((0,), (1,))  # layers 0-1 and 0-2
    assert fork.joins == 1
    assert [block.joins for block in blocks] == sorted(block.joins for block in blocks)


def test_equal_windows_run_once() -> None:
    cells = [Cell(layer, TraceConfig(window=4).layers_of(layer, 2)) for layer in range(2)]
    (block,) = lay_out(cells, of_block_outputs=False)
    assert block.columns == (0, 1)


def test_few_rows_go_in_larger_packs() -> None:
    (stretch,) = end_to_end([(LENGTH, 1)])
    where = [(stretch, pos) for pos in range(LENGTH)]  # suffixes of 12, 11, ... 1 positions
    sizes = {rows: [pack.size for pack in packs(where, d_model=256, rows=rows)] for rows in (7, 21, 70)}
    assert sizes == {7: [78], 21: [42, 36], 70: [33, 35, 10]}  # 0.15 x 256 = 38 positions, 1024 // 21 = 48


def test_a_pack_by_hand() -> None:
    (stretch,) = end_to_end([(4, 2)])
    pack = Pack(((stretch, 1), (stretch, 2)))
    assert pack.source.tolist() == [1, 2, 3, 2, 3]
    assert pack.starts.tolist() == [0, 3]
    assert pack.ends.tolist() == [1, 2, 3, 4]
    assert (pack.prefix, pack.n_prefix) == (slice(0, 2), 2)
    assert pack.allowed.int().tolist() == [
        [1, 0, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert pack.distance[4].tolist() == [3, 2, 2, 1, 0, 1, 0]


def test_a_pack_of_two_prompts_by_hand() -> None:
    first, second = end_to_end([(3, 1), (4, 2)])
    assert (second.prompt, second.start) == (1, 3)
    pack = Pack(((first, 1), (second, 1), (second, 2)))
    assert pack.own.tolist() == [1, 2, 1, 2, 3, 2, 3]
    assert pack.source.tolist() == [1, 2, 4, 5, 6, 5, 6]
    assert pack.restored.tolist() == [1, 4, 5]
    assert pack.starts.tolist() == [0, 2, 5]
    assert pack.ends.tolist() == [1, 3, 4, 5, 6]
    assert isinstance(pack.prefix, torch.Tensor)
    assert pack.prefix.tolist() == [0, 3, 4]
    assert pack.allowed.int().tolist() == [
        [1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 0, 1, 0],
        [0, 1, 1, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert [(each.prompt, positions, ends) for each, positions, ends in pack.prompts()] == [
        (0, [1], slice(0, 1)),
        (1, [1, 2], slice(1, 5)),
    ]


def test_splitting_is_even_and_complete() -> None:
    assert list(split(range(10), 4)) == [range(0, 3), range(3, 6), range(6, 10)]
    assert list(split(range(0), 4)) == []
    (stretch,) = end_to_end([(3, 1)])
    pack = Pack(((stretch, 0), (stretch, 1)))
    cells = [Cell(layer, range(layer, layer + 1)) for layer in range(5)]
    for rows in (1, 4, 5, 12, 100):
        found: list[Chunk] = list(chunks(pack, cells, range(7), rows))
        assert all(len(chunk.cells) * len(chunk.samples) <= max(rows, 1) for chunk in found)
        done = {(cell.column, sample) for chunk in found for cell in chunk.cells for sample in chunk.samples}
        assert len(done) == 35
        assert sum(chunk.n_runs for chunk in found) == 70
