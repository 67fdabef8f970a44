"""From a question and its corruption to every cell of the maps: the clean and corrupted runs, then the restored ones.

Two ways to run restored runs, both exact: packed sweeps (`tracing.sweep`), in which each layer of the model is called
once a pass, and replay (`tracing.replay`), whole forwards in batches.  `tracing.probe` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models import LanguageModel
from models.sites import Site
from tracing.config import TraceConfig
from tracing.memory import Pass, is_out_of_memory
from tracing.passes import sweep_logits
from tracing.plan import Cell, Chunk, chunks, lay_out, packs, split
from tracing.probe import EngineName
from tracing.question import QUANTITIES, Question, ask
from tracing.replay import Replay, Row
from tracing.runs import Driver, Runs, capture
from tracing.sweep import Sweep

__all__ = ["Engine", "Question", "Samples", "ask"]

Tick = Callable[[int], None]
"""Called before each pass with the restored runs that it will do; it may raise to stop the trace."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What is known of some samples of one question."""

    clean: Tensor
    """[answer, quantity], readings of the clean run (`tracing.question.QUANTITIES`)."""
    corrupted: Tensor
    """[sample, answer, quantity]."""
    restored: list[Tensor]
    """For each config, [sample, pos, column, answer, quantity] on the CPU; NaN at positions not asked for."""


@dataclass(frozen=True, eq=False)
class _Task:
    """One config's restored runs for some samples, and where their readings go."""

    config: TraceConfig
    base: Runs
    source: Runs
    reference: Tensor
    """[answer, d_vocab], logits of the clean run."""
    embeddings: Tensor
    grid: Tensor
    tick: Tick


@dataclass(eq=False)
class Engine:
    """The runs of one question on one model."""

    model: LanguageModel
    question: Question
    embeddings: Tensor
    """[sample, n_subject, d_model], what stands at the subject in the corrupted runs."""
    configs: Sequence[TraceConfig]
    positions: Sequence[int]
    """Prompt positions to restore, sorted."""
    other: int | None
    """First token of another answer, for the logit difference."""
    name: EngineName
    driver: Driver
    _clean: Runs | None = field(default=None, init=False)

    @property
    def clean_logits(self) -> Tensor:
        """[answer, d_vocab], float32; there after the first samples."""
        assert self._clean is not None
        return self._clean.logits[0].float()

    def n_runs(self) -> int:
        """Restored runs of one sample over all configs, those known without running left out."""
        return sum(len(cells) * len(where) for config in self.configs for cells, where in self.work(config))

    def run(self, samples: range, tick: Tick) -> Iterator[Samples]:
        """Some samples, as many at a time as one capture holds.

        Raises:
            TraceMemoryError: naming the pass that did not fit and what would.
        """
        length = len(self.question.ids)
        limit = self._rows(self.configs[0], length, length, self.question.n_answer)
        for part in split(samples, limit):
            yield self._samples(part, tick)

    def _samples(self, part: range, tick: Tick) -> Samples:
        tick(0)
        clean, corrupted = self._capture(part)
        # the counterfactual run's own answer is what its logits are held against
        if self.other is None and self.configs[0].corruption == "token":
            found = int(corrupted.logits[0, 0].argmax())
            self.other = None if found == self.question.answer_ids[0] else found
        logits = torch.cat([clean.logits, corrupted.logits])
        readings = self.question.read(logits, clean.logits[0], self.other).cpu()
        grids = [self._grid(config, readings, clean, corrupted, part, tick) for config in self.configs]
        return Samples(readings[0], readings[1:], grids)

    def _capture(self, part: range) -> tuple[Runs, Runs]:
        """The clean run, the first time together with the corrupted ones, and those."""
        wanted = {config.site for config in self.configs} | {config.severed for config in self.configs}
        sites: set[Site] = {site for site in wanted if site}
        size = Pass(len(part) + 1, len(self.question.ids), len(self.question.ids), self.question.n_answer)
        with _memory(self.model, size):
            runs = capture(
                self.model,
                self.question,
                self.embeddings[part.start : part.stop],
                sites,
                clean=self._clean is None,
                keys_values=self.name == "packed",
                driver=self.driver,
            )
        if self._clean is not None:
            return self._clean, runs
        self._clean = runs.rows(range(1))
        return self._clean, runs.rows(range(1, len(runs)))

    def _grid(
        self, config: TraceConfig, readings: Tensor, clean: Runs, corrupted: Runs, part: range, tick: Tick
    ) -> Tensor:
        """[sample, pos, column, answer, quantity] of one config."""
        base, source = (corrupted, clean) if config.direction == "denoising" else (clean, corrupted)
        grid = self._known(config, readings, len(part))
        task = _Task(config, base, source, clean.logits[0], self.embeddings[part.start : part.stop], grid, tick)
        for cells, where in self.work(config):
            if self.name == "packed":
                self._sweep(task, cells, where)
            else:
                self._replay(task, cells, where)
        return grid

    def _sweep(self, task: _Task, cells: Sequence[Cell], where: Sequence[int]) -> None:
        """Fill in these cells at these positions by packed sweeps."""
        question, model = self.question, self.model
        for pack in packs(where, len(question.ids), question.n_answer, model.d_model):
            shape = (pack.size, pack.size + pack.prefix, pack.ends.numel())
            for chunk in chunks(pack, cells, range(len(task.grid)), self._rows(task.config, *shape)):
                task.tick(chunk.n_runs)
                sweep = self._pass(task, chunk)
                with _memory(model, Pass(len(sweep.blocks) * sweep.n_samples, *shape)):
                    logits = sweep_logits(model, sweep, self.driver)
                    found = question.read(logits, task.reference, self.other).cpu()
                values = found.unflatten(0, (len(sweep.blocks), sweep.n_samples, len(pack.positions)))
                part = slice(chunk.samples.start, chunk.samples.stop)
                for block, value in zip(sweep.blocks, values, strict=True):
                    for column in block.columns:
                        task.grid[part, list(pack.positions), column] = value

    def _pass(self, task: _Task, chunk: Chunk) -> Sweep:
        return Sweep(
            pack=chunk.pack,
            blocks=lay_out(chunk.cells, of_block_outputs=task.config.site == "resid_post"),
            site=task.config.site,
            severed=task.config.severed,
            base=task.base.rows(chunk.samples),
            source=task.source.rows(chunk.samples),
            n_samples=len(chunk.samples),
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            gather_mlp=self.model.architecture.mlp is not None,
        )

    def _replay(self, task: _Task, cells: Sequence[Cell], where: Sequence[int]) -> None:
        """Fill in these cells at these positions by whole forwards."""
        question, length = self.question, len(self.question.ids)
        rows = [Row(cell, pos, sample) for cell in cells for pos in where for sample in range(len(task.grid))]
        limit = self._rows(task.config, length, length, question.n_answer)
        for share in split(range(len(rows)), limit):
            batch = rows[share.start : share.stop]
            task.tick(len(batch))
            replay = Replay(task.config, question, task.embeddings, task.base, task.source, batch, self.model.n_heads)
            with _memory(self.model, Pass(len(batch), length, length, question.n_answer)):
                found = question.read(replay.run(self.model, self.driver), task.reference, self.other).cpu()
            index = ([row.sample for row in batch], [row.pos for row in batch], [row.cell.column for row in batch])
            task.grid[index] = found

    def _rows(self, config: TraceConfig, positions: int, keys: int, predicted: int) -> int:
        """Rows of one pass."""
        return config.batch_size or Pass(1, positions, keys, predicted).rows_that_fit(self.model)

    def _columns(self, config: TraceConfig) -> int:
        """Columns of a config's map: its layers, for heads each head of each layer."""
        return self.model.n_layers * (self.model.n_heads if config.site == "attn_heads" else 1)

    def _cells(self, config: TraceConfig) -> list[Cell]:
        """Every column of the map, ordered by window."""
        n_layers = self.model.n_layers
        heads = range(self.model.n_heads) if config.site == "attn_heads" else [None]
        cells = [
            Cell(layer * len(heads) + index, config.layers_of(layer, n_layers), head)
            for layer in range(n_layers)
            for index, head in enumerate(heads)
        ]
        return sorted(cells, key=lambda cell: (cell.window.start, cell.window.stop, cell.column))

    def work(self, config: TraceConfig) -> Iterator[tuple[list[Cell], list[int]]]:
        """Which cells have to be run at which positions: all, less those that `_known` fills in."""
        where = [pos for pos in self.positions if pos >= self.question.subject.start]
        last = [cell for cell in self._cells(config) if cell.window.start == self.model.n_layers - 1]
        others = [cell for cell in self._cells(config) if cell.window.start < self.model.n_layers - 1]
        if where and others:
            yield others, where
        final = [pos for pos in where if pos >= self.question.n_prompt - 1]
        if final and last and config.site != "resid_post":
            yield last, final

    def _known(self, config: TraceConfig, readings: Tensor, n_samples: int) -> Tensor:
        """[sample, pos, column, answer, quantity]: what is known exactly without running it, everything else NaN.

        Before the subject nothing was corrupted.  In the last layer a position feeds only its own prediction, so
        restoring one that predicts nothing changes nothing, and restoring the block output at the prompt's last token
        makes the answer's first token as likely as where it came from.
        """
        clean, corrupted = readings[:1].expand(n_samples, -1, -1), readings[1:]
        base, source = (corrupted, clean) if config.direction == "denoising" else (clean, corrupted)
        question, columns = self.question, self._columns(config)
        shape = (n_samples, question.n_prompt, columns, question.n_answer, len(QUANTITIES))
        grid = torch.full(shape, torch.nan)
        grid[:, : question.subject.start] = base[:, None, None]
        final = [cell.column for cell in self._cells(config) if cell.window.start == self.model.n_layers - 1]
        for pos in self.positions:
            if question.subject.start <= pos < question.n_prompt - 1:
                grid[:, pos, final] = base[:, None]
            elif pos == question.n_prompt - 1 and config.site == "resid_post":
                grid[:, pos, final] = torch.cat([source[:, :1], base[:, 1:]], 1)[:, None]
        return grid


@contextmanager
def _memory(model: LanguageModel, size: Pass) -> Iterator[None]:
    """Say in words what did not fit."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise size.did_not_fit(model) from error
