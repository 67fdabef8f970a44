"""One forward on a machine that serves the model through nnsight (NDIF), with the same visits as a forward here.

What is sent is the source of a block with what it refers to: the visits, by value, with the tensors they hold.  What
comes back is what nnsight was told to save: the logits, and the states that visits note
(`models.forwards.sites.Keep`).  Each forward is one job.

The checkpoint has to be loaded here as well, since the tokenizer and the token embedding are this process's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch
from torch import Tensor

from models.forwards.hooks import sequence_length
from models.forwards.interventions import visit_module
from models.forwards.remote_jobs import DEADLINE_SECONDS, JobBackend
from models.forwards.sites import INPUTS, Keep, Key, Visit, in_execution_order, site_path
from models.language_model import LanguageModel

Step = tuple[str, bool, Visit]
"""Path of a module, whether the visit sees what it reads, and the visit."""


@dataclass(frozen=True)
class Remote:
    """A driver for `tracing.trace_all` that runs forwards elsewhere."""

    host: bool | str = True
    """True for the one nnsight is set up for, an address, or "local": everything is serialised, and then run here."""
    checkpoint: str = ""
    """What the host calls the model, such as "EleutherAI/gpt-j-6b"; by default the name it was loaded by."""
    deadline: float = DEADLINE_SECONDS
    """Seconds to wait for each forward."""

    def __call__(self, model: LanguageModel, inputs: Mapping[str, Any], visits: Mapping[Key, Visit]) -> Tensor:
        """The logits of one forward, [row, pos, d_vocab], on the model's device.

        Raises:
            ValueError: for a forward that reads or fills a cache of ours.
            RemoteJobError: if the host gives no result; the message names the job (`remote_jobs.fetch`).
        """
        if "past_key_values" in inputs:
            raise ValueError("a packed sweep keeps keys and values here and is not sent; use engine='replay'")
        order = in_execution_order(model, list(visits))
        steps = [(site_path(model.architecture, key), key[0] in INPUTS, visits[key]) for key in order]
        states: dict[Key, Tensor] = {}
        for visit in visits.values():
            if isinstance(visit, Keep):
                states = visit.states
        with model.lock:
            wrapped = nnsight.TransformersModel(model.module, tokenizer=model.tokenizer, task="text-generation")
            wrapped.repo_id = self.checkpoint or model.name
            if self.host == "local":
                how: dict[str, Any] = {"remote": "local"}
            else:
                host = self.host if isinstance(self.host, str) else None
                how = {"backend": JobBackend(wrapped.to_model_key(), host, self.deadline)}
            logits, noted = _sent(wrapped, inputs, steps, states, how)
        states.update({key: state.to(model.device) for key, state in noted.items()})
        return logits.to(model.device)


def _sent(
    wrapped: Any, inputs: Mapping[str, Any], steps: Sequence[Step], states: dict[Key, Tensor], how: Mapping[str, Any]
) -> tuple[Tensor, dict[Key, Tensor]]:
    """(logits, what the visits noted).  A function of its own, because all that the block refers to is sent."""
    length, visit = sequence_length(inputs), visit_module
    with torch.no_grad(), wrapped.trace(**inputs, **how):
        for path, reads, step in steps:
            visit(wrapped.get(path), reads, step, length)
        logits = nnsight.save(wrapped.output.logits)
        noted = nnsight.save(states)
    return logits, noted
