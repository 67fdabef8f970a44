"""The runs behind a trace: capture clean and corrupted states once, then restore many cells in few forward passes.

A cell (layer l, position t) of sample s is one row of computation (`Row`).  It differs from the corrupted run only from
the block output of its window's first layer on, and there only at position t: a block's own modules act on that
position alone once attention has read the unchanged input.  So its state there is the corrupted one with position t
replaced, either by the clean block output or, for a module, by the block output that the corrupted run has when that
layer's module output is restored everywhere (`module_entries`, one forward for all layers).  Two exact ways to go on:

* **sweep**: one forward starts with a single dummy row; after each layer the rows whose window begins there join the
  batch with that state.  After the last layer only the positions that predict the answer go on to the output head.
* **replay**: every row is a whole forward, batched.  For models whose forward ties something (a mask, ALiBi, position
  ids) to the batch it started with.

`grows_exactly` decides between them: it lets the unrestored corrupted rows join, one per layer, and asks that their
logits equal the corrupted run's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from models import LanguageModel, run
from models.interventions import Site
from tracing.types import TraceConfig, TraceSite

Patch = Callable[[Tensor], Tensor]
Patches = dict[tuple[Site, int], Patch]

LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
HALF_PRECISION_TOLERANCE = 3e-2  # bfloat16 keeps 8 bits: a batch of another size rounds differently


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt and its answer in tokens."""

    ids: tuple[int, ...]
    """Prompt and answer, without the answer's last token: nothing has to be predicted from that one."""
    n_prompt: int
    answer_ids: tuple[int, ...]
    subject: range
    """Token positions of the subject."""

    def log_prob(self, logits: Tensor) -> Tensor:
        """[row, answer, d_vocab] float32 logits at the answer's positions to [row, answer] log-probabilities."""
        answer = torch.tensor(self.answer_ids, device=logits.device)
        return torch.log_softmax(logits.float(), -1).gather(2, answer.expand(logits.shape[0], -1)[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class Capture:
    """States of the clean run and of every corrupted run."""

    clean: dict[tuple[TraceSite, int], Tensor]
    """[pos, d_model] by site and layer, what a restoration writes."""
    entry: dict[tuple[TraceSite, int], Tensor]
    """[sample, pos, d_model] by site and layer: at each position, the corrupted run's block output of that layer after
    restoring the site there."""
    corrupted: dict[int, Tensor]
    """resid_post, [sample, pos, d_model] by layer."""
    noise: Tensor
    """[sample, n_subject, d_model], scaled."""
    clean_logits: Tensor
    """[1, answer, d_vocab], float32."""
    corrupted_logits: Tensor
    """[sample, answer, d_vocab], float32."""


@dataclass(frozen=True, order=True)
class Row:
    """One restored cell of one sample.  Ordered by where its window begins, so that chunks hold neighbours."""

    joins: int
    """First layer of the window: the row equals the corrupted run up to this layer's output."""
    cell: int
    """The layer the cell is drawn at."""
    pos: int
    sample: int
    window: range = field(compare=False)
    """Layers whose output is restored at `pos`."""


@dataclass(frozen=True, eq=False)
class Engine:
    """The runs of one question on one model."""

    model: LanguageModel
    question: Question
    capture: Capture

    @cached_property
    def corrupted(self) -> Tensor:
        """[sample, answer], log-probabilities of the answer's tokens in the corrupted runs."""
        return self.question.log_prob(self.capture.corrupted_logits)

    def rows(self, config: TraceConfig, positions: Sequence[int]) -> list[Row]:
        """All rows that need computing, in order of joining; cells known exactly (`known_cell`) are left out."""
        rows = []
        for layer in range(self.model.n_layers):
            window = config.layers_of(layer, self.model.n_layers)
            for pos in positions:
                if self.known_cell(config, layer, pos) is None:
                    rows += [Row(window.start, layer, pos, sample, window) for sample in range(config.samples)]
        return sorted(rows)

    def known_cell(self, config: TraceConfig, layer: int, pos: int) -> Tensor | None:
        """[sample], the log-probability of a cell that is known without computing it, else None.

        Before the subject nothing was corrupted.  At the last layer a position feeds only its own prediction, so
        restoring one that predicts nothing changes nothing, and restoring the block output at the prompt's last
        token makes the answer's first token as likely as in the clean run.
        """
        corrupted = self.corrupted
        if pos < self.question.subject.start:
            return corrupted.sum(1)
        if config.layers_of(layer, self.model.n_layers).start == self.model.n_layers - 1:
            if pos < self.question.n_prompt - 1:
                return corrupted.sum(1)
            if config.site == "resid_post":
                first = self.question.log_prob(self.capture.clean_logits)[:, 0]
                return first + corrupted[:, 1:].sum(1)
        return None

    def sweep(self, site: TraceSite, rows: Sequence[Row]) -> Tensor:
        """[row], log-probability of the answer, by one forward that rows join.  `rows` are in order of joining."""
        restored, joined = self._restorations(site, rows, joined=True), self._joining(site, rows)
        # Windows of block outputs may meet new rows at a layer: earlier rows are restored, then the new ones join.
        meeting = {key: _in_turn(restored[key], joined[key]) for key in restored.keys() & joined.keys()}
        patches = restored | joined | meeting
        return self.question.log_prob(self._answer_logits(patches, len(rows))).sum(1)

    def replay(self, site: TraceSite, rows: Sequence[Row]) -> Tensor:
        """[row], log-probability of the answer, by whole forwards."""
        patches: Patches = {("embed", 0): self._corruption([row.sample for row in rows])}
        patches |= self._restorations(site, rows, joined=False)
        ids = torch.tensor(self.question.ids, device=self.model.device).expand(len(rows), -1)
        logits = run(self.model, ids, patches=patches).logits[:, self.question.n_prompt - 1 :]
        return self.question.log_prob(logits).sum(1)

    def grows_exactly(self) -> bool:
        """Whether this model's forward computes joined rows as it would have computed them from the start."""
        n_layers, n_samples = self.model.n_layers, len(self.capture.corrupted_logits)
        samples = [layer % n_samples for layer in range(n_layers - 1)]
        if not samples:
            return True
        rows = [Row(layer, layer, 0, sample, range(0)) for layer, sample in enumerate(samples)]
        try:
            logits = self._answer_logits(self._joining(None, rows), len(rows))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError):  # shapes that do not broadcast
            return False
        expected = self.capture.corrupted_logits[samples]
        allowed = LOGIT_TOLERANCE.get(self.model.dtype, HALF_PRECISION_TOLERANCE) * float(expected.abs().max())
        return logits.shape == expected.shape and float((logits - expected).abs().max()) <= allowed

    def _joining(self, site: TraceSite | None, rows: Sequence[Row]) -> Patches:
        """Patches that append each row's state after the layer where it joins; unrestored without a site."""

        def join(layer: int) -> Patch:
            new = [row for row in rows if row.joins == layer]
            first = layer == rows[0].joins
            samples, positions = [row.sample for row in new], [row.pos for row in new]

            def patch(state: Tensor) -> Tensor:
                block = self.capture.corrupted[layer][samples]
                if site is not None:
                    block[range(len(new)), positions] = self.capture.entry[site, layer][samples, positions]
                return torch.cat([state[:0] if first else state, block])  # the first to join push the dummy out

            return patch

        return {("resid_post", layer): join(layer) for layer in sorted({row.joins for row in rows})}

    def _restorations(self, site: TraceSite, rows: Sequence[Row], *, joined: bool) -> Patches:
        """Patches that overwrite, at each layer, the clean output in the rows that have it in their window.

        With `joined` the first layer of a window is left out: the state a row joins with has it already.
        """

        def restore(layer: int, index: list[int]) -> Patch:
            positions = [rows[i].pos for i in index]

            def patch(state: Tensor) -> Tensor:
                state[index, positions] = self.capture.clean[site, layer][positions]
                return state

            return patch

        patches: Patches = {}
        for layer in range(self.model.n_layers):
            index = [i for i, row in enumerate(rows) if layer in row.window and not (joined and layer == row.joins)]
            if index:
                patches[site, layer] = restore(layer, index)
        return patches

    def _corruption(self, samples: Sequence[int]) -> Patch:
        return corruption(self.capture.noise[list(samples)], self.question.subject)

    def _answer_logits(self, patches: Patches, n_rows: int) -> Tensor:
        """[row, answer, d_vocab]: run from a dummy row, keeping at the end the positions that predict the answer.

        They are folded into whole rows of the prompt's length, as some families' forwards demand; what follows the
        last block treats every position alike.
        """
        n_pos, start = len(self.question.ids), self.question.n_prompt - 1
        n_kept = n_rows * (n_pos - start)

        def fold(state: Tensor) -> Tensor:
            kept = state[:, start:].reshape(n_kept, -1)
            padded = torch.cat([kept, kept.new_zeros((-n_kept) % n_pos, kept.shape[1])])
            return padded.reshape(-1, n_pos, kept.shape[1])

        last: tuple[Site, int] = ("resid_post", self.model.n_layers - 1)
        ids = torch.tensor([self.question.ids], device=self.model.device)
        finish = _in_turn(patches[last], fold) if last in patches else fold
        logits = run(self.model, ids, patches={**patches, last: finish}).logits
        return logits.reshape(-1, logits.shape[-1])[:n_kept].reshape(n_rows, n_pos - start, -1)


def _in_turn(first: Patch, second: Patch) -> Patch:
    return lambda state: second(first(state))


def corruption(noise: Tensor, subject: range) -> Patch:
    """A patch of the embedding output that adds `noise` [batch, n_subject, d_model] at the subject's positions."""

    def patch(state: Tensor) -> Tensor:
        part = state[:, subject.start : subject.stop]
        # added in float32: in half precision the sum would round twice
        state[:, subject.start : subject.stop] = (part.float() + noise).to(state.dtype)
        return state

    return patch


def capture_runs(
    model: LanguageModel, question: Question, noise: Tensor, sites: Sequence[TraceSite], batch_size: int
) -> Capture:
    """One clean forward, the corrupted ones, and one more per module site (`module_entries`).

    Args:
        noise: [sample, n_subject, d_model], scaled; corrupted rows go `batch_size` at a time.
        sites: whose restoration is prepared.
    """
    layers = range(model.n_layers)
    ids = torch.tensor(question.ids, device=model.device)
    noise = noise.to(model.device)
    kept: list[tuple[TraceSite, int]] = [(site, layer) for site in sites for layer in layers]
    clean = run(model, ids[None], captures=[*kept])
    states = {(site, layer): clean.captured[site, layer][0] for site, layer in kept}
    logits: list[Tensor] = []
    corrupted: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    entry: dict[tuple[TraceSite, int], list[Tensor]] = {key: [] for key in kept}
    for part in noise.split(batch_size):
        corrupt = corruption(part, question.subject)
        blocks: list[tuple[Site, int]] = [("resid_post", layer) for layer in layers]
        ran = run(model, ids.expand(len(part), -1), captures=blocks, patches={("embed", 0): corrupt})
        logits.append(ran.logits[:, question.n_prompt - 1 :])
        found = {layer: ran.captured["resid_post", layer] for layer in layers}
        for layer in layers:
            corrupted[layer].append(found[layer])
        for site in sites:
            restored = (
                {layer: states[site, layer].expand(len(part), -1, -1) for layer in layers}
                if site == "resid_post"
                else module_entries(model, ids.expand(len(part), -1), corrupt, site, states, found)
            )
            for layer in layers:
                entry[site, layer].append(restored[layer])
    return Capture(
        clean=states,
        entry={key: torch.cat(parts) for key, parts in entry.items()},
        corrupted={layer: torch.cat(parts) for layer, parts in corrupted.items()},
        noise=noise,
        clean_logits=clean.logits[:, question.n_prompt - 1 :],
        corrupted_logits=torch.cat(logits),
    )


def module_entries(
    model: LanguageModel,
    ids: Tensor,
    corrupt: Patch,
    site: TraceSite,
    clean: dict[tuple[TraceSite, int], Tensor],
    corrupted: dict[int, Tensor],
) -> dict[int, Tensor]:
    """By layer, [sample, pos, d_model]: the block output when only that layer's module is restored, at every position.

    One forward for all layers: after each block its output is noted and put back to the corrupted run's, so that the
    next block starts from the corrupted input again.
    """
    noted: dict[int, Tensor] = {}

    def write(layer: int) -> Patch:
        return lambda state: clean[site, layer].expand_as(state)

    def note(layer: int) -> Patch:
        def patch(state: Tensor) -> Tensor:
            noted[layer] = state
            return corrupted[layer]

        return patch

    patches: Patches = {("embed", 0): corrupt}
    patches |= {(site, layer): write(layer) for layer in range(model.n_layers)}
    patches |= {("resid_post", layer): note(layer) for layer in range(model.n_layers)}
    run(model, ids, patches=patches, last_only=True)
    return noted
