"""One forward on a machine that serves the model through nnsight (NDIF), with the same visits as a forward here.

What is sent is the source of a block with what it refers to: the visits, by value, with the tensors they hold.  What
comes back is what nnsight was told to save: the logits, and the states that visits note
(`models.forwards.sites.Keep`).  Each forward is one job.

Edits of low rank are sent along, as the factors of W + rows cols: the layer's output becomes y + (x cols^T) rows^T.
The host's weights do not change.

The checkpoint has to be loaded here as well, since the tokenizer and the token embedding are this process's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import nnsight
import torch
from torch import Tensor

from models.forwards.hooks import sequence_length
from models.forwards.interventions import add_low_rank, visit_module
from models.forwards.sites import INPUTS, ORDER, Keep, Key, Site, Visit, in_execution_order, site_path
from models.language_model import LanguageModel
from models.remote.jobs import DEADLINE_SECONDS, JobBackend, RemoteJobError
from models.remote.record import JobRecord, digest_of
from models.views import LowRank

Step = tuple[str, Callable[..., None], tuple[Any, ...]]
"""Path of a module, what is done there, and its arguments behind the module."""


@dataclass(frozen=True)
class Remote:
    """A driver for `tracing.trace_all` that runs forwards elsewhere."""

    elsewhere: ClassVar[bool] = True
    """So that the tracing engine sends whole forwards, without importing this module."""
    host: bool | str = True
    """True for the one nnsight is set up for, an address, or "local": everything is serialised, and then run here."""
    checkpoint: str = ""
    """What the host calls the model, such as "EleutherAI/gpt-j-6b"; by default the name it was loaded by."""
    deadline: float = DEADLINE_SECONDS
    """Seconds to wait for each forward."""
    jobs: Path | None = None
    """A file for the ids of the jobs: the same forward, asked again with it, fetches the job that was sent, also after
    the process was ended."""

    def __call__(self, model: LanguageModel, inputs: Mapping[str, Any], visits: Mapping[Key, Visit]) -> Tensor:
        """The logits of one forward, [row, pos, d_vocab], on the model's device.

        Args:
            model: where it is a view, its edits are sent along.

        Raises:
            ValueError: for a forward that reads or fills a cache of ours, and edits that are not of low rank.
            RemoteJobError: if the host gives no result; the message names the job (`models.remote.jobs.fetch`).
        """
        if "past_key_values" in inputs:
            raise ValueError("a packed sweep keeps keys and values here and is not sent; use engine='replay'")
        base, changes = model.as_hosted()
        steps = _steps(base, inputs, visits, changes)
        states: dict[Key, Tensor] = {}
        for visit in visits.values():
            if isinstance(visit, Keep):
                states = visit.states
        with base.lock:
            wrapped = nnsight.TransformersModel(base.module, tokenizer=base.tokenizer, task="text-generation")
            wrapped.repo_id = self.checkpoint or base.name
            how = self._how(wrapped, base, inputs, steps)
            logits, noted = _sent(wrapped, inputs, steps, states, how)
        wanted = {visit.key for visit in visits.values() if isinstance(visit, Keep)}
        _check(logits, noted, wanted, len(inputs["input_ids"]), base.d_vocab)
        states.update({key: state.to(model.device) for key, state in noted.items()})
        return logits.to(model.device)

    def _how(self, wrapped: Any, base: LanguageModel, inputs: Mapping[str, Any], steps: Sequence[Step]) -> Any:
        """The arguments of nnsight's trace that say where it runs."""
        if self.host == "local":
            return {"remote": "local"}
        host, key = self.host if isinstance(self.host, str) else None, wrapped.to_model_key()
        if self.jobs is None:
            return {"backend": JobBackend(key, host, self.deadline)}
        record, question = JobRecord(self.jobs), digest_of(key, host, base.revision, dict(inputs), steps)
        note = partial(record.note, question)
        return {"backend": JobBackend(key, host, self.deadline, record.find(question), note)}


def _steps(
    base: LanguageModel, inputs: Mapping[str, Any], visits: Mapping[Key, Visit], changes: Sequence[LowRank]
) -> list[Step]:
    """Visits and changed layers, in the order in which the model computes them.

    Raises:
        ValueError: for a change of another layer than an output projection of attention or MLP.
    """
    length = sequence_length(inputs)
    steps: list[tuple[tuple[int, float], Step]] = []
    for key in in_execution_order(base, list(visits)):
        step: Step = site_path(base.architecture, key), visit_module, (key[0] in INPUTS, visits[key], length)
        steps.append(((-1 if key[0] == "embed" else key[1], ORDER[key[0]]), step))
    projections = _projections(base)
    for change in changes:
        if change.path not in projections:
            raise ValueError(
                f"the edit changes {change.path!r}; of a hosted model only the output projections of attention and "
                "MLP can be edited"
            )
        layer, site = projections[change.path]
        step = change.path, add_low_rank, (change.rows, change.cols)
        steps.append(((layer, ORDER[site] + 0.5), step))  # behind what it reads, before what it writes
    return [step for _, step in sorted(steps, key=lambda each: each[0])]


def _projections(base: LanguageModel) -> dict[str, tuple[int, Site]]:
    """Path of an output projection -> its layer, and the site that it reads."""
    architecture, layers = base.architecture, range(base.n_layers)
    attending = [layer for layer in layers if layer not in architecture.mixed]
    found: dict[str, tuple[int, Site]] = {architecture.heads_path(layer): (layer, "attn_heads") for layer in attending}
    if architecture.key_module is not None:
        found |= {architecture.key_path(layer): (layer, "mlp_key") for layer in layers}
    return found


def _check(logits: Any, noted: Any, wanted: set[Key], rows: int, d_vocab: int) -> None:
    """Compare what a host sent with what was asked for.

    Raises:
        RemoteJobError: if it is something else.
    """
    shape = list(logits.shape) if torch.is_tensor(logits) else None
    if shape is None or len(shape) != 3 or (shape[0], shape[2]) != (rows, d_vocab):
        raise RemoteJobError(
            f"the host sent logits of shape {shape} for {rows} rows and {d_vocab} tokens; it serves another model"
        )
    if not isinstance(noted, dict) or noted.keys() != wanted or not all(map(torch.is_tensor, noted.values())):
        raise RemoteJobError(
            f"the host did not send the {len(wanted)} states it was asked for; it serves another model"
        )


def _sent(
    wrapped: Any, inputs: Mapping[str, Any], steps: Sequence[Step], states: dict[Key, Tensor], how: Mapping[str, Any]
) -> tuple[Tensor, dict[Key, Tensor]]:
    """(logits, what the visits noted).  A function of its own, because all that the block refers to is sent."""
    with torch.no_grad(), wrapped.trace(**inputs, **how):
        for path, act, arguments in steps:
            act(wrapped.get(path), *arguments)
        logits = nnsight.save(wrapped.output.logits)
        noted = nnsight.save(states)
    return logits, noted
