"""Whole forwards in batches, one row for each restored run.

This follows the definition of a trace.  It is the reference, and the only way for models whose forward binds ALiBi,
position ids or a mask to the batch it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models import LanguageModel
from models.calls import calling
from models.forwards.sites import Key, Visit
from tracing.config import TraceConfig
from tracing.engine.plan import Cell
from tracing.engine.question import Question
from tracing.engine.runs import Driver, Runs


@dataclass(frozen=True)
class Row:
    """One restored run: a cell of the map at one position, for one sample."""

    cell: Cell
    pos: int
    sample: int
    """Index within the given runs."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A batch of restored runs, each computed from the embedding on."""

    config: TraceConfig
    question: Question
    embeddings: Tensor
    """[sample, n_subject, d_model]."""
    base: Runs
    source: Runs
    rows: Sequence[Row]
    n_heads: int
    positions: Tensor = field(init=False)
    """[row], restored positions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", torch.tensor([row.pos for row in self.rows]))

    def run(self, model: LanguageModel, driver: Driver) -> Tensor:
        """[row, answer, d_vocab], logits."""
        ids = torch.tensor(self.question.ids, device=model.device).expand(len(self.rows), -1)
        inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": self.question.n_answer}
        with calling(torch.full((len(ids),), self.question.n_prompt, device=model.device)):
            return driver(model, inputs, self._visits(model.n_layers))[:, -self.question.n_answer :]

    def _visits(self, n_layers: int) -> dict[Key, Visit]:
        visits: dict[Key, Visit] = {}
        if self.config.direction == "denoising":
            visits["embed", 0] = self._corrupt
        for layer in range(n_layers):
            inside = [i for i, row in enumerate(self.rows) if layer in row.cell.window]
            severed = self.config.severed
            if severed:
                same = severed == ("attn_out" if self.config.site == "attn_heads" else self.config.site)
                held = [i for i in range(len(self.rows)) if not (same and i in inside)]
                visits[severed, layer] = self._write((severed, layer), held, self.base)
                if inside and (self.config.site, layer) in visits:
                    visits[severed, layer] = self._both(layer, held, inside)
                    continue
            if inside:
                visits[self.config.site, layer] = self._write((self.config.site, layer), inside, self.source)
        return visits

    def _corrupt(self, value: Tensor) -> Tensor:
        subject = self.question.subject
        samples = [row.sample for row in self.rows]
        value[:, subject.start : subject.stop] = self.embeddings[samples].to(value)
        return value

    def _both(self, layer: int, held: list[int], inside: list[int]) -> Visit:
        """Visit of one module: hold its output in rows outside their window, restore it in rows inside."""
        key: Key = (self.config.site, layer)
        first, then = self._write(key, held, self.base), self._write(key, inside, self.source)

        def visit(value: Tensor) -> Tensor:
            first(value)
            then(value)
            return value

        return visit

    def _write(self, key: Key, chosen: list[int], runs: Runs) -> Visit:
        """Write the runs' state at the restored position of the chosen rows."""
        samples = torch.tensor([self.rows[i].sample if len(runs) > 1 else 0 for i in chosen], dtype=torch.long)
        heads = torch.tensor([self.rows[i].cell.head or 0 for i in chosen], dtype=torch.long)
        index = torch.tensor(chosen, dtype=torch.long)

        def visit(value: Tensor) -> Tensor:
            positions = self.positions[index]
            new = runs.states[key][samples, positions].to(value)
            if key[0] == "attn_heads":
                parts = value.unflatten(-1, (self.n_heads, -1))
                parts[index, positions, heads] = new.unflatten(-1, (self.n_heads, -1))[range(len(index)), heads]
            else:
                value[index, positions] = new
            return value

        return visit
