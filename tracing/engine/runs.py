"""The captured clean and corrupted runs, from which every restored run is built.

Several prompts are captured in one forward, laid end to end in one row; each reads only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models import LanguageModel
from models.calls import calling
from models.forwards.hooks import run_hooked
from models.forwards.packing import KeysValues, PrefixCache, RecordingCache, packed_inputs, packed_pattern
from models.forwards.projections import kept_projections
from models.forwards.sites import Keep, Key, Site, Visit
from tracing.engine.plan import Pack, end_to_end
from tracing.engine.question import Question

Driver = Callable[[LanguageModel, Mapping[str, Any], Mapping[Key, Visit]], Tensor]
"""`models.forwards.hooks.run_hooked`, `models.forwards.interventions.run_traced`, or a
`models.remote.driver.Remote`."""


@dataclass(frozen=True, eq=False)
class Runs:
    """States of some runs of one prompt, or of several laid end to end."""

    states: dict[Key, Tensor]
    """(site, layer) -> [run, pos, d]."""
    keys_values: dict[int, KeysValues]
    """By layer, [run, head, pos, d_head]; empty if the runs are replayed."""
    projections: dict[int, tuple[Tensor, ...]]
    """By layer, what makes queries, keys and values, [run, pos, d_out] each; empty if they were not kept."""
    logits: Tensor
    """[run, answer, d_vocab], at the positions that predict the answers, in the order of the prompts."""

    def __len__(self) -> int:
        return len(self.logits)

    def rows(self, part: range) -> Runs:
        """Some of the runs; a single run broadcasts."""
        if len(self) == 1:
            return self
        rows = slice(part.start, part.stop)
        return Runs(
            {key: state[rows] for key, state in self.states.items()},
            {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.keys_values.items()},
            {layer: tuple(each[rows] for each in outputs) for layer, outputs in self.projections.items()},
            self.logits[rows],
        )


def capture(
    model: LanguageModel,
    questions: Sequence[Question],
    embeddings: Sequence[Tensor],
    sites: Collection[Site],
    *,
    clean: bool,
    keys_values: bool,
    driver: Driver,
) -> Runs:
    """Run one forward and keep the input of layer 0, all block outputs and the given sites of every layer.

    Where keys and values are kept, plain hooks keep the projections as well.

    Args:
        embeddings: for each question [sample, n_subject, d_model], embeddings of the subject in the corrupted runs.
        clean: whether row 0 is the clean run.
        keys_values: whether to keep the attention's keys and values, which a packed sweep reads.
    """
    states: dict[Key, Tensor] = {}
    stretches = end_to_end((len(question.ids), question.n_answer) for question in questions)

    def corrupt(value: Tensor) -> Tensor:
        for question, stretch, noised in zip(questions, stretches, embeddings, strict=True):
            first, behind = stretch.start + question.subject.start, stretch.start + question.subject.stop
            value[int(clean) :, first:behind] = noised.to(value)
        return value

    layers = range(model.n_layers)
    visits: dict[Key, Visit] = {("embed", 0): corrupt, ("resid_pre", 0): Keep(("resid_pre", 0), states)}
    visits |= {(site, layer): Keep((site, layer), states) for site in {"resid_post", *sites} for layer in layers}
    row = [token for question in questions for token in question.ids]
    ids = torch.tensor(row, device=model.device).expand(len(embeddings[0]) + int(clean), -1)
    cache = RecordingCache() if keys_values else None
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": keys_values}
    if cache is not None:
        inputs["past_key_values"] = cache
    projections: dict[int, tuple[Tensor, ...]] = {}
    keeping = kept_projections(model, projections) if keys_values and driver is run_hooked else nullcontext()
    with keeping:
        if len(questions) == 1:
            (question,) = questions
            inputs["logits_to_keep"] = question.n_answer
            with calling(torch.full((len(ids),), question.n_prompt, device=model.device)):
                logits = driver(model, inputs, visits)[:, -question.n_answer :]
        else:
            logits = _side_by_side(model, Pack(tuple((stretch, 0) for stretch in stretches)), inputs, visits, driver)
    return Runs(states, {} if cache is None else dict(cache.kept), projections, logits)


def _side_by_side(
    model: LanguageModel, pack: Pack, inputs: Mapping[str, Any], visits: Mapping[Key, Visit], driver: Driver
) -> Tensor:
    """[run, answer, d_vocab], logits of whole prompts in one row, each reading only itself."""
    pattern = packed_inputs(model, pack.own, pack.allowed, pack.distance, PrefixCache([], 0, 1))
    shared = {name: pattern[name] for name in ("position_ids", "attention_mask")}
    with model.lock, packed_pattern(model, pack.allowed, pack.distance):
        ends = pack.ends.to(model.device)
        return driver(model, {**inputs, **shared, "logits_to_keep": ends}, visits)[:, -len(ends) :]
