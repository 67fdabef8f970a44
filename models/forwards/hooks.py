"""One forward with plain torch hooks, which the tracing engine runs thousands of times.

`models.forwards.interventions.run_traced` does the same with nnsight, a few milliseconds slower per forward.  Both take
the same visits, and a test compares them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.forwards.activations import fused_activations
from models.forwards.sites import INPUTS, Keep, Key, Visit, in_execution_order, site_path
from models.language_model import LanguageModel


@torch.no_grad()
def run_hooked(model: LanguageModel, inputs: Mapping[str, Any], visits: Mapping[Key, Visit]) -> Tensor:
    """The logits of one forward, [row, pos, d_vocab], in which each visit sees its activation and may replace it.

    The model's lock is held from the first hook to the last, and a hook that another thread runs into (by a forward
    that does not take the lock) returns at once.

    Args:
        inputs: keyword arguments of the module, on its device.
        visits: (site, layer) -> what happens there.  A visit gets the tensor itself, [row, pos, d], and may write to
            it.  At resid_pre and resid_post it may return any number of rows, if nothing else is tied to the batch.
    """
    with model.lock, fused_activations(model), hung(model, visits, sequence_length(inputs)):
        head = model.submodules[model.architecture.head]
        handle = head.register_forward_pre_hook(_contiguous)
        try:
            logits: Tensor = model.module(**inputs).logits
        finally:
            handle.remove()
    return logits


@contextmanager
def hung(model: LanguageModel, visits: Mapping[Key, Visit], length: int) -> Iterator[None]:
    """While open, this thread's forwards show each visit its activation; the caller holds the model's lock.

    Args:
        length: positions in a row.
    """
    with ExitStack() as stack:
        for key, visit in visits.items():
            module = model.submodules[site_path(model.architecture, key)]
            hang = _before if key[0] in INPUTS else _after
            stack.callback(hang(module, visit, length).remove)
        yield


class _EnoughError(Exception):
    """Ends a forward whose remaining layers are not needed."""


def read_states(model: LanguageModel, input_ids: Tensor, keys: Collection[Key]) -> dict[Key, Tensor]:
    """Copies of the states at some sites, [row, pos, d] each; see `visit_states`."""
    states: dict[Key, Tensor] = {}
    visit_states(model, input_ids, {key: Keep(key, states) for key in keys})
    return states


@torch.no_grad()
def visit_states(model: LanguageModel, input_ids: Tensor, visits: Mapping[Key, Visit]) -> None:
    """Pass each visit the state at its site, [row, pos, d]; the forward ends after the last of them.

    Args:
        input_ids: [row, pos], padded on the right.

    Raises:
        ValueError: if a site or layer does not exist, or the ids are not [row, pos] or too long.
    """
    ids, order = model.checked_ids(input_ids), in_execution_order(model, visits)

    def last(value: Tensor) -> None:
        visits[order[-1]](value)
        raise _EnoughError

    with model.lock, hung(model, {**visits, order[-1]: last}, ids.shape[1]), suppress(_EnoughError):
        model.module(input_ids=ids, use_cache=False)


class Below:
    """What the blocks below a layer return on some rows, for forwards in which nothing up to there changes.

    Args:
        input_ids: [row, pos], padded on the right; the same in every forward.
        layer: the first block that may change.
    """

    def __init__(self, model: LanguageModel, input_ids: Tensor, layer: int) -> None:
        self._returned: list[tuple[nn.Module, Any]] = []
        if layer == 0:
            return
        owner = threading.get_ident()

        def note(module: nn.Module, _: object, output: Any) -> None:
            if threading.get_ident() == owner:
                self._returned.append((module, output))

        with model.lock, ExitStack() as stack:
            for index in range(layer):
                block = model.submodules[model.architecture.block(index)]
                stack.callback(block.register_forward_hook(note).remove)
            visit_states(model, input_ids, {("resid_pre", layer): lambda _: None})

    @contextmanager
    def given(self) -> Iterator[None]:
        """While open, those blocks give what they returned; the caller holds the model's lock."""
        with ExitStack() as stack:
            for module, output in self._returned:
                stack.enter_context(instead(module, giving(output)))
            yield


def giving(output: Any) -> Callable[..., Any]:
    """A forward that gives a copy, since some families (Falcon) write to what a part of theirs returned."""
    if isinstance(output, tuple):
        return lambda *_, **__: (output[0].clone(), *output[1:])
    return lambda *_, **__: output.clone()


def sequence_length(inputs: Mapping[str, Any]) -> int:
    """Positions in a row of a module's keyword arguments."""
    rows = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
    return int(rows.shape[1])


def _contiguous(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last positions of each row are a strided slice, for which torch copies the head's weight for every row."""
    return (args[0].contiguous(), *args[1:])


def _before(module: nn.Module, visit: Visit, length: int) -> RemovableHandle:
    """A hook on the module's first argument."""
    owner = threading.get_ident()

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if threading.get_ident() != owner:
            return None
        name = None if args else next(iter(kwargs))
        new = _visited(visit, kwargs[name] if name else args[0], length)
        if new is None:
            return None
        return (args, {**kwargs, name: new}) if name else ((new, *args[1:]), kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: nn.Module, visit: Visit, length: int) -> RemovableHandle:
    """A hook on the module's output, or on its first element."""
    owner = threading.get_ident()

    def hook(_: nn.Module, __: object, output: Any) -> Any:
        if threading.get_ident() != owner:
            return None
        several = isinstance(output, tuple)
        new = _visited(visit, output[0] if several else output, length)
        return (new, *output[1:]) if several and new is not None else new

    return module.register_forward_hook(hook)


def _visited(visit: Visit, value: Tensor, length: int) -> Tensor | None:
    """The replacement in the layout of `value`: OPT folds [row, pos] into one axis around its MLP."""
    if value.ndim == 3:
        return visit(value)
    new = visit(value.unflatten(0, (-1, length)))
    return None if new is None else new.flatten(0, 1)


@contextmanager
def instead(module: nn.Module, run: Callable[..., Any]) -> Iterator[None]:
    """While open, this thread calls `run` in place of the module's forward."""
    forward, saved, owner = module.forward, module.__dict__.get("forward"), threading.get_ident()

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (run if threading.get_ident() == owner else forward)(*args, **kwargs)

    module.__dict__["forward"] = chosen
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if saved is not None:  # nnsight puts its own there
            module.__dict__["forward"] = saved
