"""Keys: where in a prompt the fact is looked up, and the vector that looks it up.

The down-projection of an MLP maps a key k (its input, [d_mlp]) to a value (its output, [d_model]).  ROME reads the key
at one token, by default the last of the subject, in the prompt and in the prompt behind several contexts:
k* = 1/N sum_j k(x_j + p) (Meng et al. 2022, section 3.1, equation 3, arXiv:2202.05262).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from editing.answers import padded, portions
from editing.contexts import BARE
from facts import Fact
from models import LanguageModel, Site, count_occurrences, join, pad, run, subject_span

FactToken = Literal["subject_last", "subject_first", "last"]


@dataclass(frozen=True)
class Row:
    """One tokenised text of the batch over which the value is optimised."""

    ids: tuple[int, ...]
    lookup: int
    """Position of the fact token."""
    n_prompt: int
    """Tokens at this position and after are the target's; the row's length where there is no target."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows.  Row 0 is the bare prompt, the last one "{subject} is a", those between have contexts."""

    rows: tuple[Row, ...]
    ids: torch.Tensor
    """[batch, pos]"""
    lookup: torch.Tensor
    """[batch], position of the fact token in each row."""


def make_batch(
    model: LanguageModel, fact: Fact, target: str, contexts: Sequence[str], fact_token: FactToken = "subject_last"
) -> Batch:
    """Tokenise the prompt and target in every context that leaves them room, then the subject's essence prompt.

    Raises:
        ValueError: if the bare prompt with its target is longer than the model takes, or its tokens hide the subject.
    """
    rows = [_target_row(model, fact, target, "", fact_token)]
    answer = len(rows[0].ids) - rows[0].n_prompt
    for prefix in (context.removesuffix(BARE) for context in contexts):
        if prefix and len(model.tokenize(prefix + fact.prompt)) + answer <= model.max_positions:
            rows.append(_target_row(model, fact, target, prefix, fact_token))
    rows.append(_essence_row(model, fact.subject, fact_token))
    ids, _ = pad([row.ids for row in rows], model.pad_id)
    lookup = torch.tensor([row.lookup for row in rows], device=model.device)
    return Batch(tuple(rows), ids.to(model.device), lookup)


def _target_row(model: LanguageModel, fact: Fact, target: str, prefix: str, fact_token: FactToken) -> Row:
    prompt = prefix + fact.prompt
    ids, n_prompt = join(model, prompt, target)
    # A generated context may name the subject itself; the one meant is where the template has its placeholder.
    before = prefix + fact.template.split("{}")[0]
    occurrence = count_occurrences(before, fact.subject)
    return Row(tuple(ids), _fact_position(model, prompt, fact.subject, occurrence, n_prompt, fact_token), n_prompt)


def _essence_row(model: LanguageModel, subject: str, fact_token: FactToken) -> Row:
    prompt = f"{subject} is a"
    ids = model.encode(prompt)
    return Row(tuple(ids), _fact_position(model, prompt, subject, 0, len(ids), fact_token), len(ids))


def _fact_position(
    model: LanguageModel, prompt: str, subject: str, occurrence: int, n_prompt: int, fact_token: FactToken
) -> int:
    if fact_token == "last":
        return n_prompt - 1
    span = subject_span(model, prompt, subject, occurrence)
    return span.stop - 1 if fact_token == "subject_last" else span.start


def mean_key(keys: torch.Tensor) -> torch.Tensor:
    """k*: the mean over contexts, [context, d_mlp] -> [d_mlp] in float64."""
    return keys.double().mean(0)


def mean_by_kind(keys: torch.Tensor) -> torch.Tensor:
    """MEMIT's key: the bare prompt weighs as much as all contexts together, [context, d_mlp] -> [d_mlp] in float64.

    The public code averages within each kind of context, then over kinds (`compute_ks`).
    """
    if len(keys) == 1:
        return keys[0].double()
    return (keys[0].double() + keys[1:].double().mean(0)) / 2


def read_lookups(
    model: LanguageModel, rows: Sequence[Row], sites: Sequence[tuple[Site, int]]
) -> dict[tuple[Site, int], torch.Tensor]:
    """What stands at each row's fact token, at every (site, layer): [row, d] float32, in as few forwards as fit."""
    parts: dict[tuple[Site, int], list[torch.Tensor]] = {site: [] for site in sites}
    for portion in portions([(1, len(row.ids)) for row in rows]):
        some = [rows[index] for index in portion]
        captured = run(model, padded(model, some), captures=sites, last_only=True).captured
        at = (torch.arange(len(some)), torch.tensor([row.lookup for row in some]))
        for site in sites:
            parts[site].append(captured[site][at].float())
    return {site: torch.cat(found) for site, found in parts.items()}
