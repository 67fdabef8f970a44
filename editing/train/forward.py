"""Forward passes from the first edited block on that read only the answers' tokens, each group of rows with its change.

Three savings make meta-training on a CPU a matter of minutes.  One pass serves many edits, because a low-rank change
costs little to apply to its own rows alone.  The head runs where an answer token is predicted and nowhere else.  And
blocks below the first edited one never change, so that their output is kept for every row that comes back: they are
passed through, and the kept states are put in where the first edited block begins.

Everything happens in a module tree of our own (`LanguageModel.view()`), which shares its tensors with the base and its
hooks with nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from editing.train.rows import Encoder, LowRank, Rows
from models import LanguageModel, pad
from models.calls import calling

BATCH = 128
"""Rows of one forward pass without gradients."""
MAX_KEPT = 2**27
"""Most cached entries of the lower blocks' outputs (512 MiB)."""


class Forward:
    """Runs tokenised rows through the blocks from `first` on; the blocks below run once for each distinct row.

    Args:
        model: not modified; a view is used.
        first: index of the first block that may be changed.
    """

    def __init__(self, model: LanguageModel, first: int = 0) -> None:
        self.view = model.view()
        self._first = first
        self._below = model.view() if first else self.view
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._n_kept = 0
        self._states: Tensor | None = None
        self._places: tuple[Tensor, Tensor] | None = None
        self._read: Tensor | None = None
        self._members: tuple[Tensor, int] | None = None
        self.module_of(f"{model.architecture.head}.weight").register_forward_pre_hook(self._select)
        if first:
            self._pass_through()

    def module_of(self, name: str) -> nn.Module:
        """The module of the upper blocks that owns a weight."""
        return self.view.module.get_submodule(name.rpartition(".")[0])

    def log_probs(self, rows: Rows) -> Tensor:
        """Log probabilities where the answers are predicted, [token, d_vocab] float32; with gradients if enabled."""
        return self._run(rows).float().log_softmax(-1)

    def log_probs_by_length(self, rows: Rows, parts: int = 3) -> Tensor:
        """`log_probs` in several passes of rows of similar length, because padding short rows to the longest costs as
        much.

        Args:
            parts: number of passes.
        """
        order = torch.tensor(sorted(range(rows.n_rows), key=lambda index: rows.lengths[index]), device=rows.ids.device)
        log_probs, places = [], []
        for members in order.chunk(parts):
            part, tokens = rows.only(members)
            log_probs.append(self._run(part, (members, rows.n_rows)).float().log_softmax(-1))
            places.append(tokens)
        back = torch.cat(places).argsort()
        return torch.cat(log_probs)[back]

    def read_by_head(self, rows: Rows) -> Tensor:
        """What the head reads there, [token, d_model]: the final norm's output."""
        self._run(rows)
        assert self._read is not None
        return self._read

    def _run(self, rows: Rows, members: tuple[Tensor, int] | None = None) -> Tensor:
        """[token, d_vocab], the logits.

        Args:
            members: if the rows are some of many: which, and of how many.
        """
        self._members = members or (torch.arange(rows.n_rows, device=rows.ids.device), rows.n_rows)
        self._states = self._lower_states(rows) if self._first else None
        self._places = (rows.row, rows.pos)
        first_answer = torch.full((rows.n_rows,), rows.ids.shape[1], device=rows.ids.device)
        ends = first_answer.scatter_reduce(0, rows.row, rows.pos + 1, "amin")
        with calling(ends):
            return _logits(self.view, rows.ids)

    @contextmanager
    def changed(self, changes: Mapping[str, LowRank]) -> Iterator[None]:
        """Context in which row block e of every forward pass uses edit e's change; rows divide evenly among the
        edits."""
        handles = [self.module_of(name).register_forward_hook(self._adding(change)) for name, change in changes.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adding(self, change: LowRank) -> Any:
        """A hook that adds (x colsᵀ) rows of each row's own edit: all edits in one product, the others' part masked."""
        edits, rank, d_in = change.cols.shape
        cols, additions = change.cols.reshape(edits * rank, d_in), change.rows.reshape(edits * rank, -1)
        edit = torch.arange(edits, device=cols.device).repeat_interleave(rank)

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            assert self._members is not None
            members, n_rows = self._members
            inner = args[0].reshape(len(members), -1, d_in) @ cols.T
            if edits > 1:
                inner = inner * (edit == (members // (n_rows // edits))[:, None])[:, None]
            return output + (inner @ additions).reshape(output.shape)

        return hook

    def _pass_through(self) -> None:
        """Make the lower blocks of this view return their input, and the first edited one read the cached states."""
        blocks = self.view.module.get_submodule(self.view.architecture.layers)
        returned: list[object] = []
        handle = blocks[0].register_forward_hook(lambda module, args, output: returned.append(output))
        with torch.no_grad():
            _logits(self.view, torch.tensor([[self.view.pad_id]], device=self.view.device))
        handle.remove()
        as_tuple = isinstance(returned[0], tuple)

        def same(hidden_states: Tensor, *args: object, **options: object) -> object:
            return (hidden_states,) if as_tuple else hidden_states

        for index in range(self._first):
            # the block stays, because the model reads attributes of it; only what it computes is replaced
            blocks[index].forward = same
        blocks[self._first].register_forward_pre_hook(self._put_in, with_kwargs=True)

    def _select(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run the head only where an answer token is predicted; the model still post-processes the logits."""
        if self._places is None:
            return args
        self._read = args[0][self._places]
        return (self._read,)

    def _put_in(self, module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "hidden_states" in options:
            return args, options | {"hidden_states": self._states}
        return (self._states, *args[1:]), options

    @torch.no_grad()
    def _lower_states(self, rows: Rows) -> Tensor:
        """Input of the first edited block, [row, pos, d_model]; padding is zero and never read."""
        keys = [tuple(ids[:n]) for ids, n in zip(rows.ids.tolist(), rows.lengths, strict=True)]
        fresh = self._run_below([key for key in dict.fromkeys(keys) if key not in self._kept])
        states = torch.zeros(*rows.ids.shape, self.view.d_model, device=rows.ids.device, dtype=self.view.dtype)
        for index, key in enumerate(keys):
            states[index, : len(key)] = self._kept[key] if key in self._kept else fresh[key]
        for key, value in fresh.items():
            if self._n_kept + value.numel() <= MAX_KEPT:
                self._kept[key] = value
                self._n_kept += value.numel()
        return states

    def _run_below(self, keys: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        if not keys:
            return {}
        entering: list[Tensor] = []
        block = self._below.module.get_submodule(self._below.architecture.block(self._first))

        def stop(module: nn.Module, args: Any, options: dict[str, Any]) -> None:
            entering.append(options["hidden_states"] if "hidden_states" in options else args[0])
            raise _Stopped

        ids, lengths = pad(keys, self.view.pad_id)
        handle = block.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with calling(lengths.to(self.view.device)):
                _logits(self._below, ids.to(self.view.device))
        except _Stopped:
            pass
        finally:
            handle.remove()
        return {key: entering[0][index, : len(key)].clone() for index, key in enumerate(keys)}


class _Stopped(Exception):  # noqa: N818 - no error: the rest of the forward is not wanted
    """Raised when the wanted states have been read, to end the forward pass."""


def _logits(model: LanguageModel, ids: Tensor) -> Tensor:
    """What the head gives: [row, pos, d_vocab], or [token, d_vocab] where places were selected."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    logits: Tensor = model.module(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits


@torch.no_grad()
def greedy_right(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """For each (prompt, answer): whether the answer is the model's own greedy continuation."""
    encoder, forward = Encoder(model), Forward(model)
    order = sorted(range(len(pairs)), key=lambda index: len(encoder.joined(*pairs[index])[0]))
    results = [False] * len(pairs)
    for start in range(0, len(order), BATCH):
        chunk = order[start : start + BATCH]
        rows = encoder.rows([pairs[index] for index in chunk])
        for index, right in zip(chunk, rows.right(forward.log_probs(rows)).tolist(), strict=True):
            results[index] = right
    return results
