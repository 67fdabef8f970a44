"""Compute every cell of the maps: the clean and corrupted runs first, then the restored ones.

Restored runs are computed in one of two ways, both exact: packed sweeps (`tracing.engine.sweep`) call each layer once
per pass, replay (`tracing.engine.replay`) runs whole forwards in batches.  `tracing.engine.probe` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from models import LanguageModel
from models.forwards.sites import Site
from tracing.config import TraceConfig
from tracing.engine.memory import Pass, is_out_of_memory, keep_freed_pages
from tracing.engine.passes import sweep_logits
from tracing.engine.plan import Cell, Chunk, Stretch, Variant, chunks, end_to_end, lay_out, packs, split
from tracing.engine.probe import EngineName
from tracing.engine.question import QUANTITIES, Question
from tracing.engine.replay import Replay, Row
from tracing.engine.runs import Driver, Runs, capture
from tracing.engine.sweep import Sweep

__all__ = ["Engine", "Question", "Samples", "TracedPrompt"]

Tick = Callable[[int], None]
"""Called before each pass with its number of restored runs; it may raise to stop the trace."""


@dataclass(eq=False)
class TracedPrompt:
    """A prompt with its answer, its corrupted embeddings and the positions to restore."""

    question: Question
    embeddings: Tensor
    """[sample, n_subject, d_model], embeddings of the subject in the corrupted runs."""
    positions: Sequence[int]
    """Prompt positions to restore, sorted."""
    other: int | None
    """First token of another answer, for the logit difference; for the corruption "token" the engine sets it."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Readings of some samples of one prompt."""

    clean: Tensor
    """[answer, quantity], readings of the clean run (`tracing.engine.question.QUANTITIES`)."""
    greedy: list[int]
    """[answer], the clean run's most probable tokens."""
    corrupted: Tensor
    """[sample, answer, quantity]."""
    restored: list[Tensor]
    """For each config, [sample, pos, column, answer, quantity] on the CPU; NaN at positions that were not traced."""


@dataclass(frozen=True, eq=False)
class _Task:
    """One config's restored runs for some samples, and the grids for their readings."""

    config: TraceConfig
    base: Runs
    source: Runs
    references: Sequence[Tensor]
    """For each prompt [answer, d_vocab], logits of the clean run."""
    part: range
    """Which samples."""
    grids: Sequence[Tensor]
    """For each prompt."""
    tick: Tick


@dataclass(eq=False)
class Engine:
    """The runs of one prompt, or of several side by side, on one model."""

    model: LanguageModel
    prompts: Sequence[TracedPrompt]
    """Several only if the engine is "packed"; all have the same number of samples."""
    configs: Sequence[TraceConfig]
    name: EngineName
    driver: Driver
    _clean: Runs | None = field(default=None, init=False)

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The place of each prompt in the row that holds all of them."""
        return end_to_end((len(prompt.question.ids), prompt.question.n_answer) for prompt in self.prompts)

    def n_runs(self) -> int:
        """Restored runs of one sample over all configs, without those whose result is known beforehand."""
        return sum(len(cells) * len(where) for config in self.configs for cells, where in self.work(config))

    def run(self, samples: range, tick: Tick) -> Iterator[tuple[Samples, ...]]:
        """Run some samples of every prompt, as many at a time as one capture can hold.

        Raises:
            TraceMemoryError: naming the pass that did not fit and what would.
        """
        keep_freed_pages()
        limit = self._rows(self.configs[0], self._length, self._length, self._n_answers)
        for part in split(samples, limit):
            yield self._samples(part, tick)

    @property
    def _length(self) -> int:
        """Tokens of all prompts."""
        return sum(stretch.length for stretch in self.stretches)

    @property
    def _n_answers(self) -> int:
        """Answer tokens of all prompts."""
        return sum(stretch.n_answer for stretch in self.stretches)

    def _samples(self, part: range, tick: Tick) -> tuple[Samples, ...]:
        tick(0)
        clean, corrupted = self._capture(part)
        references = clean.logits[0].split([stretch.n_answer for stretch in self.stretches])
        logits = torch.cat([clean.logits, corrupted.logits]).split([each.n_answer for each in self.stretches], 1)
        readings = []
        for prompt, reference, own in zip(self.prompts, references, logits, strict=True):
            # logits are compared with the answer of the counterfactual run
            if prompt.other is None and self.configs[0].corruption == "token":
                answer = int(own[1, 0].argmax())
                prompt.other = None if answer == prompt.question.answer_ids[0] else answer
            readings.append(prompt.question.read(own, reference, prompt.other).cpu())
        grids: list[list[Tensor]] = []
        for config in self.configs:
            base, source = (corrupted, clean) if config.direction == "denoising" else (clean, corrupted)
            known = [self._known(config, *each) for each in zip(self.prompts, readings, strict=True)]
            self._fill(_Task(config, base, source, references, part, known, tick))
            grids.append(known)
        restored = zip(*grids, strict=True)
        return tuple(
            Samples(reading[0], reference.argmax(-1).tolist(), reading[1:], list(grid))
            for reading, reference, grid in zip(readings, references, restored, strict=True)
        )

    def _capture(self, part: range) -> tuple[Runs, Runs]:
        """(clean run, corrupted runs); the clean one is run once, together with the first corrupted ones."""
        wanted = {config.site for config in self.configs} | {config.severed for config in self.configs}
        sites: set[Site] = {site for site in wanted if site}
        size = Pass(len(part) + 1, self._length, self._length, self._n_answers)
        with _memory(self.model, size):
            runs = capture(
                self.model,
                [prompt.question for prompt in self.prompts],
                [prompt.embeddings[part.start : part.stop] for prompt in self.prompts],
                sites,
                clean=self._clean is None,
                keys_values=self.name == "packed",
                driver=self.driver,
            )
        if self._clean is not None:
            return self._clean, runs
        self._clean = runs.rows(range(1))
        return self._clean, runs.rows(range(1, len(runs)))

    def _fill(self, task: _Task) -> None:
        """Run one config's restored runs and write their readings into the grids."""
        for cells, where in self.work(task.config):
            if self.name == "packed":
                self._sweep(task, cells, where)
            else:
                self._replay(task, cells, [pos for _, pos in where])

    def _sweep(self, task: _Task, cells: Sequence[Cell], where: Sequence[Variant]) -> None:
        """Fill in these cells at these positions by packed sweeps."""
        model = self.model
        for pack in packs(where, model.d_model, len(cells) * len(task.part)):
            shape = (pack.size, pack.size + pack.n_prefix, len(pack.ends))
            for chunk in chunks(pack, cells, range(len(task.part)), self._rows(task.config, *shape)):
                task.tick(chunk.n_runs)
                sweep = self._pass(task, chunk)
                with _memory(model, Pass(len(sweep.blocks) * sweep.n_samples, *shape)):
                    self._read(task, sweep, chunk, sweep_logits(model, sweep, self.driver))

    def _read(self, task: _Task, sweep: Sweep, chunk: Chunk, logits: Tensor) -> None:
        """Write the readings of [block, sample, end, d_vocab] logits into the grids."""
        part = slice(chunk.samples.start, chunk.samples.stop)
        for stretch, positions, ends in chunk.pack.prompts():
            prompt, reference = self.prompts[stretch.prompt], task.references[stretch.prompt]
            own = logits[:, :, ends].unflatten(2, (len(positions), stretch.n_answer))
            readings = prompt.question.read(own.flatten(0, 2), reference, prompt.other).cpu()
            values = readings.unflatten(0, own.shape[:3])
            for block, value in zip(sweep.blocks, values, strict=True):
                for column in block.columns:
                    task.grids[stretch.prompt][part, positions, column] = value

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
        """Fill in these cells at these positions of the only prompt by whole forwards."""
        (prompt,), (grid,), (reference,) = self.prompts, task.grids, task.references
        question, length = prompt.question, len(prompt.question.ids)
        embeddings = prompt.embeddings[task.part.start : task.part.stop]
        rows = [Row(cell, pos, sample) for cell in cells for pos in where for sample in range(len(grid))]
        limit = self._rows(task.config, length, length, question.n_answer)
        for share in split(range(len(rows)), limit):
            batch = rows[share.start : share.stop]
            task.tick(len(batch))
            replay = Replay(task.config, question, embeddings, task.base, task.source, batch, self.model.n_heads)
            with _memory(self.model, Pass(len(batch), length, length, question.n_answer)):
                readings = question.read(replay.run(self.model, self.driver), reference, prompt.other).cpu()
            index = ([row.sample for row in batch], [row.pos for row in batch], [row.cell.column for row in batch])
            grid[index] = readings

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

    def work(self, config: TraceConfig) -> Iterator[tuple[list[Cell], list[Variant]]]:
        """The cells to run at each position: all but those that `_known` fills in."""
        where, final = [], []
        for prompt, stretch in zip(self.prompts, self.stretches, strict=True):
            where += [(stretch, pos) for pos in prompt.positions if pos >= prompt.question.subject.start]
            final += [(stretch, pos) for pos in prompt.positions if pos >= prompt.question.n_prompt - 1]
        last = [cell for cell in self._cells(config) if cell.window.start == self.model.n_layers - 1]
        others = [cell for cell in self._cells(config) if cell.window.start < self.model.n_layers - 1]
        if where and others:
            yield others, where
        if final and last and config.site != "resid_post":
            yield last, final

    def _known(self, config: TraceConfig, prompt: TracedPrompt, readings: Tensor) -> Tensor:
        """[sample, pos, column, answer, quantity]: values that are exact without a run, NaN elsewhere.

        Positions before the subject are not corrupted.  In the last layer a position affects only its own prediction:
        restoring one that predicts no answer token changes nothing, and restoring the block output at the prompt's
        last token gives the answer's first token the probability it has in the source run.

        Args:
            readings: [1 + sample, answer, quantity], of the clean and the corrupted runs.
        """
        n_samples = len(readings) - 1
        clean, corrupted = readings[:1].expand(n_samples, -1, -1), readings[1:]
        base, source = (corrupted, clean) if config.direction == "denoising" else (clean, corrupted)
        question, columns = prompt.question, self._columns(config)
        shape = (n_samples, question.n_prompt, columns, question.n_answer, len(QUANTITIES))
        grid = torch.full(shape, torch.nan)
        grid[:, : question.subject.start] = base[:, None, None]
        final = [cell.column for cell in self._cells(config) if cell.window.start == self.model.n_layers - 1]
        for pos in prompt.positions:
            if question.subject.start <= pos < question.n_prompt - 1:
                grid[:, pos, final] = base[:, None]
            elif pos == question.n_prompt - 1 and config.site == "resid_post":
                grid[:, pos, final] = torch.cat([source[:, :1], base[:, 1:]], 1)[:, None]
        return grid


@contextmanager
def _memory(model: LanguageModel, size: Pass) -> Iterator[None]:
    """Turn an out-of-memory error into `TraceMemoryError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise size.did_not_fit(model) from error
