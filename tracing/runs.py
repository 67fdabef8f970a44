"""The clean run and the corrupted ones, kept whole: what every restored run is put together from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models import LanguageModel
from models.calls import calling
from models.packing import KeysValues, RecordingCache
from models.sites import Key, Site, Visit
from tracing.question import Question

Driver = Callable[[LanguageModel, Mapping[str, Any], Mapping[Key, Visit]], Tensor]
"""`models.hooks.run_hooked` or `models.interventions.run_traced`."""


@dataclass(frozen=True, eq=False)
class Runs:
    """States of some runs of one prompt."""

    states: dict[Key, Tensor]
    """(site, layer) -> [run, pos, d]."""
    keys_values: dict[int, KeysValues]
    """By layer, [run, head, pos, d_head]; empty where the runs are only replayed."""
    logits: Tensor
    """[run, answer, d_vocab], at the positions that predict the answer."""

    def __len__(self) -> int:
        return len(self.logits)

    def rows(self, part: range) -> Runs:
        """Some of the runs; one run stands for any number of itself."""
        if len(self) == 1:
            return self
        rows = slice(part.start, part.stop)
        return Runs(
            {key: state[rows] for key, state in self.states.items()},
            {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.keys_values.items()},
            self.logits[rows],
        )


def capture(
    model: LanguageModel,
    question: Question,
    embeddings: Tensor,
    sites: Collection[Site],
    *,
    clean: bool,
    keys_values: bool,
    driver: Driver,
) -> Runs:
    """One forward that keeps block inputs of layer 0, block outputs and the named sites of every layer.

    What is kept is copied, since Falcon and others add to a module's output in place.

    Args:
        embeddings: [sample, n_subject, d_model], what stands at the subject in the corrupted runs.
        clean: whether the clean run goes first, as row 0.
        keys_values: whether to keep those of the attention, which a packed sweep reads.
    """
    states: dict[Key, Tensor] = {}

    def keep(key: Key) -> Visit:
        def visit(value: Tensor) -> None:
            states[key] = value.clone()

        return visit

    def corrupt(value: Tensor) -> Tensor:
        value[int(clean) :, question.subject.start : question.subject.stop] = embeddings.to(value)
        return value

    layers = range(model.n_layers)
    visits: dict[Key, Visit] = {("embed", 0): corrupt, ("resid_pre", 0): keep(("resid_pre", 0))}
    visits |= {(site, layer): keep((site, layer)) for site in {"resid_post", *sites} for layer in layers}
    ids = torch.tensor(question.ids, device=model.device).expand(len(embeddings) + int(clean), -1)
    cache = RecordingCache() if keys_values else None
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": keys_values, "logits_to_keep": question.n_answer}
    if cache is not None:
        inputs["past_key_values"] = cache
    with calling(torch.full((len(ids),), question.n_prompt, device=model.device)):
        logits = driver(model, inputs, visits)
    return Runs(states, {} if cache is None else dict(cache.kept), logits[:, -question.n_answer :])
