"""The loops the tracing engine is compared with: one forward for each cell of the map.

`RomeLoop` is the loop of the ROME repository (experiments/causal_trace.py, `trace_with_patch` and
`trace_with_repatch`) in behaviour: a batch of one clean row and S corrupted ones, hooks on the embedding and on the
patched layers, the softmax of every corrupted row, the mean probability.  Two things differ so that results can be
compared: the noise is given, and the severed run keeps one draw for both passes.  `NnsightLoop` is the same cell as one
nnsight trace; `LensLoop` the same with TransformerLens's `run_with_hooks`, which its own patching loop
(`transformer_lens.patching.generic_activation_patch`) calls for each cell.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from models import LanguageModel
from models.forwards.sites import Key, site_path
from tracing.config import TraceConfig

Cells = Iterable[tuple[int, int]]
"""(position, layer)."""


@dataclass(frozen=True, eq=False)
class Task:
    """One prompt and its noise, as token ids and numbers."""

    model: LanguageModel
    ids: tuple[int, ...]
    subject: range
    noise: Tensor
    """[sample, n_subject, d_model], what is added to the subject's embeddings."""
    config: TraceConfig
    answer: int

    def batch(self) -> Tensor:
        """[1 + sample, pos], the clean row first."""
        return torch.tensor(self.ids, device=self.model.device).expand(len(self.noise) + 1, -1)

    def window(self, layer: int) -> range:
        """Layers restored together."""
        return self.config.layers_of(layer, self.model.n_layers)


@dataclass(eq=False)
class RomeLoop:
    """Hooks on a plain forward of 1 + S rows for every cell."""

    task: Task
    _frozen: dict[int, Tensor] = field(default_factory=dict)

    def cell(self, pos: int, layer: int) -> float:
        """The mean probability of the answer with one cell restored."""
        task = self.task
        if task.config.severed:
            self._frozen = {}
            self._forward({}, keep=True)
        return self._forward(
            {each: pos for each in task.window(layer)}, severed_at=pos if task.config.severed else None
        )

    def _forward(self, patches: dict[int, int], *, keep: bool = False, severed_at: int | None = None) -> float:
        task, handles = self.task, []
        model = task.model

        def hang(key: Key, edit: Any) -> None:
            module = model.module.get_submodule(site_path(model.architecture, key))
            handles.append(module.register_forward_hook(edit))

        def corrupt(_: object, __: object, output: Tensor) -> Tensor:
            output[1:, task.subject.start : task.subject.stop] += task.noise.to(output)
            return output

        def restore(pos: int) -> Any:
            def edit(_: object, __: object, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                hidden[1:, pos] = hidden[0, pos]
                return output

            return edit

        def sever(layer: int) -> Any:
            def edit(_: object, __: object, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                if keep:
                    self._frozen[layer] = hidden.clone()
                else:
                    hidden[1:, severed_at] = self._frozen[layer][1:, severed_at]
                return output

            return edit

        try:
            hang(("embed", 0), corrupt)
            if task.config.severed and (keep or severed_at is not None):
                for layer in range(model.n_layers):
                    hang((task.config.severed, layer), sever(layer))
            for layer, pos in patches.items():
                hang((task.config.site, layer), restore(pos))
            with torch.no_grad():
                logits = model.module(input_ids=task.batch()).logits
        finally:
            for handle in handles:
                handle.remove()
        return float(torch.softmax(logits[1:, -1].float(), -1).mean(0)[task.answer])


@dataclass(eq=False)
class NnsightLoop:
    """The same cell as one nnsight trace; block outputs and modules, without severing."""

    task: Task

    def cell(self, pos: int, layer: int) -> float:
        """The mean probability of the answer with one cell restored."""
        import nnsight

        task, wrapped = self.task, self.task.model.wrapped
        names = task.model.architecture
        paths = [site_path(names, (task.config.site, each)) for each in task.window(layer)]
        with torch.no_grad(), wrapped.trace(input_ids=task.batch()):
            embedded = wrapped.get(names.embedding).output.clone()
            embedded[1:, task.subject.start : task.subject.stop] += task.noise.to(embedded)
            wrapped.get(names.embedding).output = embedded
            for path in paths:
                output = wrapped.get(path).output
                hidden = output[0] if isinstance(output, tuple) else output
                hidden[1:, pos] = hidden[0, pos]
            logits = nnsight.save(wrapped.output.logits)
        return float(torch.softmax(logits[1:, -1].float(), -1).mean(0)[task.answer])


@dataclass(eq=False)
class LensLoop:
    """The same cell with TransformerLens, on a copy of the weights; block outputs, in GPT-2's family.

    Its bridge takes over the module and sets it to eager attention; the copy keeps the other contenders' model
    unchanged.
    """

    task: Task
    _bridge: Any = field(init=False)

    def __post_init__(self) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        model = self.task.model
        module, tokenizer = copy.deepcopy(model.module), copy.deepcopy(model.tokenizer)
        tokenizer.init_kwargs.setdefault("name_or_path", model.name)  # the bridge asks for it
        self._bridge = TransformerBridge.boot_transformers(
            "gpt2", hf_model=module, tokenizer=tokenizer, dtype=model.dtype, device=str(model.device)
        )

    def cell(self, pos: int, layer: int) -> float:
        """The mean probability of the answer with one cell restored."""
        task = self.task

        def corrupt(value: Tensor, hook: object) -> Tensor:
            value = value.clone()
            value[1:, task.subject.start : task.subject.stop] += task.noise.to(value)
            return value

        def restore(value: Tensor, hook: object) -> Tensor:
            value = value.clone()
            value[1:, pos] = value[0, pos]
            return value

        hooks = [("hook_embed", corrupt), (f"blocks.{layer}.hook_resid_post", restore)]
        with torch.no_grad():
            logits = self._bridge.run_with_hooks(task.batch(), fwd_hooks=hooks)
        return float(torch.softmax(logits[1:, -1].float(), -1).mean(0)[task.answer])


def transformer_lens_is_here() -> bool:
    """Whether TransformerLens can be imported; it is no dependency of the project."""
    return find_spec("transformer_lens") is not None
