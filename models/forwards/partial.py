"""Forwards of which little is read or changed: logits at a few places, and a batch whose rows change from one token on.

The head is most of a small model with a large vocabulary, so it is given only the positions whose logits are read.  A
search adds a vector at one token in one block and runs the same rows again and again: what stands in the blocks before
and at the tokens before never changes, so it is computed once (`PartialForward`).  Masks, rotary positions, norms and
what a family does to its logits behind the head (a cap, a scale) stay transformers' own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.forwards.head import Places, head_losses, losses, only_at
from models.forwards.hooks import giving, hung, instead, sequence_length
from models.forwards.packing import KeysValues, PrefixCache, RecordingCache, packed_inputs, packed_pattern
from models.forwards.sites import Keep, Key, Visit, site_path
from models.language_model import LanguageModel

MOST_PACKED = 512
"""Positions in a packed row: its attention scores are a square of them."""
TOLERANCE = 1e-5
"""Largest difference of what the head reads, the short way and by whole rows, in units of the largest, in float32."""


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


def logits_of(model: LanguageModel, inputs: Mapping[str, Any], places: Places) -> Tensor:
    """The logits at some places of a forward of these keyword arguments, [place, d_vocab] in float32."""
    return _logits_at(model, inputs, places, {}, False)


def _logits_at(
    model: LanguageModel, inputs: Mapping[str, Any], places: Places, visits: Mapping[Key, Visit], grad: bool
) -> Tensor:
    head = model.submodules[model.architecture.head]
    hooked = hung(model, visits, sequence_length(inputs))
    with model.lock, torch.set_grad_enabled(grad), hooked, only_at(head, places):
        logits: Tensor = model.module(**inputs).logits
    return logits[0].to(model.device, torch.float32)


@dataclass(frozen=True, eq=False)
class Reading:
    """Losses to be read off some of the rows; see `models.forwards.head.losses`."""

    rows: Tensor
    """[row], those to run."""
    places: Places
    """Counted within these rows, none before its row's token; those with a token come first."""
    tokens: Tensor
    """[n]"""
    bases: Tensor
    """[place - n, d_vocab], log probabilities."""


@dataclass(frozen=True, eq=False)
class _Noted:
    """One forward of the unchanged rows."""

    entering: Tensor
    """[row, pos, d_model], what the block read."""
    below: Sequence[tuple[nn.Module, Any]]
    """The blocks before it and, before the changed site, its own parts, with what they returned."""
    keys_values: Mapping[int, KeysValues]
    """By layer, [row, head, pos, d_head] each."""
    places: Places
    """Where it was read."""
    states: Tensor
    """[place, d_model], what the head read there."""
    head: nn.Linear | None
    """The head, where the logits are what it returns and nothing more."""


class PartialForward:
    """Rows to run again and again with a vector added at one token of each.

    The short way packs what stands at that token and behind it into one row that reads the keys and values before it
    (`models.forwards.packing`).  Whether that gives this model's own states is measured at the first call; where it
    does not, and where the module has hooks or parts of somebody else's, whole rows are run.

    Args:
        input_ids: [row, pos], padded on the right.
        key: the site and layer at which the vectors are added.
        starts: [row], the token at which each is added.
    """

    def __init__(self, model: LanguageModel, input_ids: Tensor, key: Key, starts: Tensor) -> None:
        self._model, self._ids, self._key, self._starts = model, model.checked_ids(input_ids), key, starts.cpu()
        self.short: _Noted | None = None
        """What the short way needs; None where whole rows are run."""
        self._noted = self._measured = False
        self._prepared: tuple[Places, Tensor, _Prepared] | None = None

    def is_of(self, input_ids: Tensor, key: Key, starts: Tensor) -> bool:
        """Whether it was made for these rows."""
        same = self._ids.shape == input_ids.shape and torch.equal(self._ids, input_ids.to(self._ids.device))
        return same and self._key == key and torch.equal(self._starts, starts.cpu())

    def unchanged(self, places: Places, visits: Mapping[Key, Visit] | None = None) -> Tensor:
        """The logits of the rows as they are, [place, d_vocab], and meanwhile what the short way needs."""
        at = places[0].cpu(), places[1].cpu()
        with self._model.lock:
            self._noted = True
            fits = int((self._ids.shape[1] - self._starts).sum()) <= MOST_PACKED
            if fits and self._model.dtype == torch.float32 and self._model.packable:
                try:
                    self.short, logits = self._note(at, visits or {})
                    return logits
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, ValueError, IndexError, TypeError, KeyError):  # a family without such a cache
                    self.short = None
            return logits_at(self._model, self._ids, at, visits)

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
        chosen = torch.arange(len(self._ids)) if rows is None else rows
        with self._model.lock:
            noted = self._usable(places, chosen)
            if noted is None:
                return self._whole(places, added, chosen, grad)
            return self._short(noted, places, added, chosen, grad)

    def losses(self, reading: Reading, added: Tensor) -> Tensor:
        """What `reading` asks for, [place] in nats, with gradients for the vectors.

        Args:
            added: [row, d_model], for the chosen rows.
        """
        with self._model.lock:
            states = None if self._measured else self._first_states(reading, added)
            noted = self._usable(reading.places, reading.rows)
            if noted is None or noted.head is None:
                logits = self.logits(reading.places, added, rows=reading.rows, grad=True)
                return losses(logits, reading.tokens, reading.bases)
            if states is None:
                with instead(noted.head, lambda states: states):
                    states = self._short(noted, reading.places, added, reading.rows, True)
        return head_losses(states, noted.head, reading.tokens, reading.bases)

    def _usable(self, places: Places, rows: Tensor) -> _Noted | None:
        """What the short way needs, or None where it is not to be taken; measured once, on unchanged rows."""
        if not self._noted:
            self.unchanged((rows.to(places[0].device)[places[0]], places[1]))
        if self.short is not None and not self._measured:
            every = torch.arange(len(self._ids))
            self._tried(self.short, self.short.places, None, every, False)
        self._measured = True
        return self.short

    def _first_states(self, reading: Reading, added: Tensor) -> Tensor | None:
        """What the head reads at the first step of a search, which adds nothing yet, so that it measures as well."""
        noted = self.short
        if noted is None or noted.head is None or len(reading.rows) < len(self._ids) or bool(added.any()):
            return None
        if not all(torch.equal(here.cpu(), there) for here, there in zip(reading.places, noted.places, strict=True)):
            return None
        self._measured = True
        return self._tried(noted, reading.places, added, reading.rows, True)

    def _tried(self, noted: _Noted, places: Places, added: Tensor | None, rows: Tensor, grad: bool) -> Tensor | None:
        """What the head reads the short way of rows that do not change; None, from now on, where it is not the same."""
        head = self._model.submodules[self._model.architecture.head]
        self.short = None
        try:
            with ExitStack() as stack:
                read = _reading(head, stack)
                if noted.head is not None:  # its product tells nothing new
                    stack.enter_context(instead(head, lambda states: states))
                self._short(noted, places, added, rows, grad)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError):  # shapes or arguments the family does not take
            return None
        states: Tensor = read[0][0]
        if float((states.detach() - noted.states).abs().max()) > TOLERANCE * float(noted.states.abs().max()):
            return None
        self.short = noted
        return states

    def _note(self, places: Places, visits: Mapping[Key, Visit]) -> tuple[_Noted, Tensor]:
        """One forward of all rows, with its logits."""
        first = self._key[1]
        head = self._model.submodules[self._model.architecture.head]
        cache, states = RecordingCache(), dict[Key, Tensor]()
        entering: Key = ("resid_pre", first)
        with ExitStack() as stack:
            below = [(module, _reading(module, stack, output=True)) for module in self._unchanging()]
            before, behind = _reading(head, stack), _reading(head, stack, output=True)
            with_entering: dict[Key, Visit] = {**visits, entering: Keep(entering, states)}
            inputs = {"input_ids": self._ids, "use_cache": True, "past_key_values": cache}
            logits = _logits_at(self._model, inputs, places, with_entering, False)
        linear = head if type(head) is nn.Linear and torch.equal(behind[0][0].to(logits), logits) else None
        noted = _Noted(
            states[entering],
            [(module, outputs[0]) for module, outputs in below],
            {layer: cache.kept[layer] for layer in range(first, self._model.n_layers)},
            places,
            before[0][0],
            linear,
        )
        return noted, logits

    def _whole(self, places: Places, added: Tensor | None, rows: Tensor, grad: bool) -> Tensor:
        def add(written: Tensor) -> Tensor | None:
            if added is None:
                return None
            index = (torch.arange(len(rows)), self._starts[rows])
            return written.index_put(index, added.to(written), accumulate=True)

        return logits_at(self._model, self._ids[rows], places, {self._key: add}, grad=grad)

    def _short(self, noted: _Noted, places: Places, added: Tensor | None, rows: Tensor, grad: bool) -> Tensor:
        ready = self._ready(noted, places, rows)

        def enter(_: Tensor) -> Tensor:
            return ready.entering.clone()  # some families write to it

        def add(written: Tensor) -> Tensor | None:
            if added is None:
                return None
            return written.index_add(1, ready.packed.starts.to(written.device), added[None].to(written))

        visits: dict[Key, Visit] = {("resid_pre", self._key[1]): enter, self._key: add}
        with ExitStack() as stack:
            for (module, _), output in zip(noted.below, ready.below, strict=True):
                stack.enter_context(instead(module, giving(output)))
            stack.enter_context(packed_pattern(self._model, ready.packed.allowed, ready.packed.distance))
            return _logits_at(self._model, ready.inputs, ready.packed.places, visits, grad)

    def _ready(self, noted: _Noted, places: Places, rows: Tensor) -> _Prepared:
        """Kept, since the steps of a search ask for the same."""
        if self._prepared is None or self._prepared[0] is not places or self._prepared[1] is not rows:
            self._prepared = places, rows, self._prepare(noted, places, rows.cpu())
        return self._prepared[2]

    def _prepare(self, noted: _Noted, places: Places, rows: Tensor) -> _Prepared:
        packed = _Packed((places[0].cpu(), places[1].cpu()), self._starts[rows])
        kept = {
            layer: (packed.before(keys[rows]), packed.before(values[rows]))
            for layer, (keys, values) in noted.keys_values.items()
        }
        cache = PrefixCache(kept, len(packed.prefix[0]), 1)
        inputs = packed_inputs(self._model, packed.own[1], packed.allowed, packed.distance, cache)

        def own(output: Any) -> Any:
            """The part of packed tokens of what a module returned."""
            if isinstance(output, tuple):
                return (own(output[0]), *output[1:])
            if output.ndim == 3:
                return output[rows][packed.own][None]
            return output.unflatten(0, (len(self._ids), -1))[rows][packed.own]  # OPT folds [row, pos] around its MLP

        below = [own(output) for _, output in noted.below]
        return _Prepared(packed, inputs, own(noted.entering), below)

    def _unchanging(self) -> list[nn.Module]:
        """What gives the same at and behind the changed tokens whatever is added."""
        site, first = self._key
        architecture = self._model.architecture
        paths = [architecture.block(layer) for layer in range(first)]
        if site == "mlp_out":
            paths += [site_path(architecture, ("attn_out", first)), site_path(architecture, self._key)]
        if site == "resid_post":
            paths.append(architecture.block(first))
        return [self._model.submodules[path] for path in paths]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What the short way of some places needs, whatever is added."""

    packed: _Packed
    inputs: Mapping[str, Any]
    entering: Tensor
    """[1, own, d_model]"""
    below: Sequence[Any]
    """What `_Noted.below` returned, for these tokens."""


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


def _reading(module: nn.Module, stack: ExitStack, *, output: bool = False) -> list[Any]:
    """A list of what the module reads first, or returns, in this thread until the stack is closed."""
    read, owner = list[Any](), threading.get_ident()

    def note(_: nn.Module, inputs: tuple[Any, ...], returned: Any) -> None:
        if threading.get_ident() == owner:
            read.append(giving(returned)() if output else inputs[0])

    stack.callback(module.register_forward_hook(note).remove)
    return read
