"""Forwards of which little is read or changed: logits at a few places, and a batch whose rows change from one token on.

The head is most of a small model with a large vocabulary, so it is given only the positions whose logits are read.  A
search adds a vector at one token in one block and runs the same rows again and again: what stands in the blocks before
and at the tokens before never changes, so it is computed once (`PartialForward`).  Masks, rotary positions, norms and
what a family does to its logits behind the head (a cap, a scale) stay transformers' own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.forwards.hooks import hung, sequence_length
from models.forwards.packing import KeysValues, PrefixCache, RecordingCache, packed_inputs, packed_pattern, plain
from models.forwards.sites import Keep, Key, Visit
from models.language_model import LanguageModel

Places = tuple[Tensor, Tensor]
"""Rows and positions, [place] each."""
MOST_PACKED = 512
"""Positions in a packed row: its attention scores are a square of them."""
TOLERANCE = 1e-5
"""Largest difference of logits between the short way and whole rows, in units of the largest logit, in float32."""


def logits_at(
    model: LanguageModel,
    input_ids: Tensor,
    places: Places,
    visits: Mapping[Key, Visit] | None = None,
    *,
    grad: bool = False,
    **inputs: Any,
) -> Tensor:
    """The logits at some places of right-padded rows, [place, d_vocab] in float32, on the model's device.

    Args:
        input_ids: [row, pos].
        visits: (site, layer) -> what happens there; see `models.forwards.hooks.run_hooked`.
        grad: record gradients.
        inputs: more keyword arguments of the module.
    """
    ids = model.checked_ids(input_ids)
    return _logits_at(model, {"input_ids": ids, "use_cache": False, **inputs}, places, visits or {}, grad)


def _logits_at(
    model: LanguageModel, inputs: Mapping[str, Any], places: Places, visits: Mapping[Key, Visit], grad: bool
) -> Tensor:
    with model.lock, torch.set_grad_enabled(grad), hung(model, visits, sequence_length(inputs)), _only(model, places):
        logits: Tensor = model.module(**inputs).logits
    return logits[0].to(model.device, torch.float32)


@contextmanager
def _only(model: LanguageModel, places: Places) -> Iterator[None]:
    """While open, the head sees these places alone, as one row; the caller holds the model's lock."""
    owner = threading.get_ident()

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if threading.get_ident() != owner:
            return None
        row, position = (index.to(args[0].device) for index in places)
        return (args[0][row, position][None], *args[1:])

    handle = model.submodules[model.architecture.head].register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class _Noted:
    """One forward of the unchanged rows."""

    entering: Tensor
    """[row, pos, d_model], what the block read."""
    below: Mapping[int, Any]
    """What each block before it returned."""
    keys_values: Sequence[KeysValues]
    """By layer, [row, head, pos, d_head] each."""


class PartialForward:
    """Rows to run again and again with a vector added at one token of each.

    The short way packs what stands at that token and behind it into one row that reads the keys and values before it
    (`models.forwards.packing`).  Whether that gives this model's own logits is measured at the first call; where it
    does not, and where the module has hooks or parts of somebody else's, whole rows are run.

    Args:
        input_ids: [row, pos], padded on the right.
        key: the site and layer at which the vectors are added.
        starts: [row], the token at which each is added.
    """

    def __init__(self, model: LanguageModel, input_ids: Tensor, key: Key, starts: Tensor) -> None:
        self._model, self._ids, self._key, self._starts = model, model.checked_ids(input_ids), key, starts.cpu()
        self.short: _Noted | None = None
        """What the short way needs, once measured; None where whole rows are run."""
        self._measured = False

    def logits(
        self, places: Places, added: Tensor | None = None, *, rows: Tensor | None = None, grad: bool = False
    ) -> Tensor:
        """The logits at some places, none of them before its row's token, [place, d_vocab] in float32.

        Args:
            places: counted within the chosen rows.
            added: [row, d_model], for the chosen rows.
            rows: [row], those to run; all by default.
            grad: record gradients, for vectors that require them.
        """
        chosen = torch.arange(len(self._ids)) if rows is None else rows.cpu()
        at = places[0].cpu(), places[1].cpu()
        with self._model.lock:
            if not self._measured:
                self.short, self._measured = self._usable(at, chosen), True
            if self.short is None:
                return self._whole(at, added, chosen, grad)
            return self._short(self.short, at, added, chosen, grad)

    def _usable(self, places: Places, rows: Tensor) -> _Noted | None:
        """What the short way needs, or None where it is not to be taken."""
        if self._model.dtype != torch.float32 or not plain(self._model.module):
            return None
        if int((self._ids.shape[1] - self._starts).sum()) > MOST_PACKED:
            return None
        try:
            noted, expected = self._note((rows[places[0]], places[1]))
            found = self._short(noted, places, None, rows, False)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError):  # shapes or arguments the family does not take
            return None
        return noted if float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()) else None

    def _note(self, places: Places) -> tuple[_Noted, Tensor]:
        """One forward of all rows, with its logits."""
        first = self._key[1]
        cache, states = RecordingCache(), dict[Key, Tensor]()
        below: dict[int, Any] = {}
        entering: Key = ("resid_pre", first)
        with self._model.lock, ExitStack() as stack:
            for layer in range(first):
                stack.enter_context(_noting(self._block(layer), below, layer))
            visits: dict[Key, Visit] = {entering: Keep(entering, states)}
            logits = logits_at(self._model, self._ids, places, visits, use_cache=True, past_key_values=cache)
        kept = [cache.kept[layer] for layer in range(self._model.n_layers)]
        return _Noted(states[entering], below, kept), logits

    def _whole(self, places: Places, added: Tensor | None, rows: Tensor, grad: bool) -> Tensor:
        def add(written: Tensor) -> Tensor | None:
            if added is None:
                return None
            index = (torch.arange(len(rows)), self._starts[rows])
            return written.index_put(index, added.to(written), accumulate=True)

        return logits_at(self._model, self._ids[rows], places, {self._key: add}, grad=grad)

    def _short(self, noted: _Noted, places: Places, added: Tensor | None, rows: Tensor, grad: bool) -> Tensor:
        packed = _Packed(places, self._starts[rows])
        kept = [tuple(packed.before(each[rows]) for each in both) for both in noted.keys_values]
        cache = PrefixCache(kept, len(packed.prefix[0]), 1)  # type: ignore[arg-type]
        inputs = packed_inputs(self._model, packed.own[1], packed.allowed, packed.distance, cache)
        entering = noted.entering[rows][packed.own][None]

        def enter(_: Tensor) -> Tensor:
            return entering.clone()  # some families write to it

        def add(written: Tensor) -> Tensor | None:
            if added is None:
                return None
            return written.index_add(1, packed.starts.to(written.device), added[None].to(written))

        visits: dict[Key, Visit] = {("resid_pre", self._key[1]): enter, self._key: add}
        with self._model.lock, ExitStack() as stack:
            for layer, output in noted.below.items():
                stack.enter_context(_skipped(self._block(layer), output, entering))
            stack.enter_context(packed_pattern(self._model, packed.allowed, packed.distance))
            return _logits_at(self._model, inputs, packed.places, visits, grad)

    def _block(self, layer: int) -> nn.Module:
        return self._model.submodules[self._model.architecture.block(layer)]


class _Packed:
    """The tokens of some rows from one on, side by side, behind all tokens before.

    Args:
        places: rows and positions that are read.
        starts: [row], the first token of each row that changes.
    """

    def __init__(self, places: Places, starts: Tensor) -> None:
        firsts = starts.tolist()
        ends = [first + 1 for first in firsts]
        for row, position in zip(places[0].tolist(), places[1].tolist(), strict=True):
            ends[row] = max(ends[row], position + 1)
        self.prefix = _side_by_side([range(first) for first in firsts])
        self.own = _side_by_side([range(first, end) for first, end in zip(firsts, ends, strict=True)])
        sizes = torch.tensor([end - first for first, end in zip(firsts, ends, strict=True)])
        self.starts = sizes.cumsum(0) - sizes
        """[row], where each row's own tokens begin."""
        self.places = torch.zeros_like(places[0]), self.starts[places[0]] + places[1] - starts[places[0]]
        keys = [torch.cat(both) for both in zip(self.prefix, self.own, strict=True)]
        self.distance = self.own[1][:, None] - keys[1]
        """[own, prefix + own], tokens from the key to the query."""
        self.allowed = (self.own[0][:, None] == keys[0]) & (self.distance >= 0)

    def before(self, kept: Tensor) -> Tensor:
        """[1, head, prefix, d_head] of [row, head, pos, d_head]."""
        return kept.transpose(1, 2)[self.prefix].transpose(0, 1)[None]


def _side_by_side(rows: Sequence[range]) -> Places:
    places = [(row, position) for row, positions in enumerate(rows) for position in positions]
    both = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@contextmanager
def _noting(block: nn.Module, below: dict[int, Any], layer: int) -> Iterator[None]:
    """While open, what the block returns to this thread is noted."""
    owner = threading.get_ident()

    def note(_: nn.Module, __: object, output: Any) -> None:
        if threading.get_ident() == owner:
            below[layer] = output

    handle = block.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipped(block: nn.Module, output: Any, states: Tensor) -> Iterator[None]:
    """While open, the block does nothing in this thread: it gives `states`, in the form of what it gave once."""
    forward, saved, owner = block.forward, block.__dict__.get("forward"), threading.get_ident()

    def run(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            return forward(*args, **kwargs)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    block.__dict__["forward"] = run
    try:
        yield
    finally:
        block.__dict__.pop("forward")
        if saved is not None:  # nnsight puts its own there
            block.__dict__["forward"] = saved
