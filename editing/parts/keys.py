"""Keys: the token at which a prompt's fact is looked up, and the key vector there.

The down-projection of an MLP maps a key k (its input, [d_mlp]) to a value (its output, [d_model]).  ROME reads the key
at one token, by default the last of the subject, in the prompt and in the prompt behind several contexts:
k* = 1/N sum_j k(x_j + p) (Meng et al. 2022, section 3.1, equation 3, arXiv:2202.05262).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from editing.parts.answers import padded, portions
from editing.parts.contexts import BARE
from facts import Fact
from models import LanguageModel, Site, Span, fits, join, pad, subject_span
from models.forwards.hooks import read_states

FactToken = str
"""One of `FACT_TOKENS`, or "subject:K" for token K of the subject in the bare prompt, counted from 0."""
FACT_TOKENS = ("subject_last", "subject_first", "last")
NUMBERED = r"subject:\d{1,3}"
Pick = Callable[[Sequence[int], Span], int]
"""The fact token's position, given the ids of a text and the span of the subject in it."""


@dataclass(frozen=True)
class Row:
    """One tokenised text (prefix, prompt, new answer) of the batch over which v* is optimised."""

    ids: tuple[int, ...]
    lookup: int
    """Position of the fact token."""
    n_prompt: int
    """Tokens from this position on are the target's; the row's length if there is no target."""


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
    pick = _picker(model, fact, fact_token)
    rows = [_target_row(model, fact, target, "", pick)]
    for prefix in (context.removesuffix(BARE) for context in contexts):
        if prefix and fits(model, prefix + fact.prompt, target):
            rows.append(_target_row(model, fact, target, prefix, pick))
    rows.append(_essence_row(model, fact.subject, pick))
    ids, _ = pad([row.ids for row in rows], model.pad_id)
    lookup = torch.tensor([row.lookup for row in rows], device=model.device)
    return Batch(tuple(rows), ids.to(model.device), lookup)


def fact_position(model: LanguageModel, fact: Fact, fact_token: FactToken = "subject_last") -> int:
    """Position of the fact token in the bare prompt.

    Raises:
        ValueError: if the subject has no such token, or the prompt's tokens hide the subject.
    """
    ids = model.encode(fact.prompt)
    return _position(model, fact.prompt, ids, fact.subject, fact.start, _picker(model, fact, fact_token))


def _picker(model: LanguageModel, fact: Fact, fact_token: FactToken) -> Pick | None:
    """A function that locates the fact token in any text with the subject; None for the prompt's last token.

    A numbered token is counted in the bare prompt.  If another text splits the subject into other tokens, the function
    takes the token that ends at the same letter of the subject, or else the first that ends later.
    """
    if fact_token == "last":
        return None
    if fact_token == "subject_first":
        return lambda ids, span: span.start
    if fact_token == "subject_last":
        return lambda ids, span: span.last
    ids, index = model.encode(fact.prompt), int(fact_token.removeprefix("subject:"))
    bare = subject_span(model, fact.prompt, fact.subject, fact.start)
    if index >= len(bare):
        raise ValueError(
            f"fact_token is {fact_token!r}, but the subject {fact.subject!r} has {len(bare)} tokens, counted from 0; "
            f"choose a token from subject:0 to subject:{len(bare) - 1}"
        )

    def behind(row: Sequence[int], pos: int, span: Span) -> int:
        return len("".join(model.decode(list(row[pos + 1 : span.stop])).split()))

    rest = behind(ids, bare.start + index, bare)

    def pick(row: Sequence[int], span: Span) -> int:
        if list(row[span.start : span.stop]) == ids[bare.start : bare.stop]:
            return span.start + index
        return next(pos for pos in range(span.start, span.stop) if behind(row, pos, span) <= rest)

    return pick


def _target_row(model: LanguageModel, fact: Fact, target: str, prefix: str, pick: Pick | None) -> Row:
    prompt = prefix + fact.prompt
    ids, n_prompt = join(model, prompt, target)
    # A context may contain the subject too; take the occurrence at the template's placeholder.
    lookup = _position(model, prompt, ids[:n_prompt], fact.subject, len(prefix) + fact.start, pick)
    return Row(tuple(ids), lookup, n_prompt)


def _essence_row(model: LanguageModel, subject: str, pick: Pick | None) -> Row:
    prompt = f"{subject} is a"
    ids = model.encode(prompt)
    return Row(tuple(ids), _position(model, prompt, ids, subject, 0, pick), len(ids))


def _position(model: LanguageModel, prompt: str, ids: Sequence[int], subject: str, at: int, pick: Pick | None) -> int:
    """Position of the fact token in the ids of a prompt."""
    return len(ids) - 1 if pick is None else pick(ids, subject_span(model, prompt, subject, at))


def mean_key(keys: torch.Tensor) -> torch.Tensor:
    """k*: the mean over contexts, [context, d_mlp] -> [d_mlp] in float64."""
    return keys.double().mean(0)


def mean_by_kind(keys: torch.Tensor) -> torch.Tensor:
    """MEMIT's key, in which the bare prompt weighs as much as all contexts together: [context, d_mlp] -> [d_mlp],
    float64.

    The public code averages within each kind of context, then over kinds (`compute_ks`).
    """
    if len(keys) == 1:
        return keys[0].double()
    return (keys[0].double() + keys[1:].double().mean(0)) / 2


def read_lookups(
    model: LanguageModel, rows: Sequence[Row], sites: Sequence[tuple[Site, int]]
) -> dict[tuple[Site, int], torch.Tensor]:
    """States at each row's fact token, at every (site, layer): [row, d] float32, in as few forward passes as fit."""
    parts: dict[tuple[Site, int], list[torch.Tensor]] = {site: [] for site in sites}
    for portion in portions([(1, len(row.ids)) for row in rows]):
        some = [rows[index] for index in portion]
        captured = read_states(model, padded(model, some), sites)
        at = (torch.arange(len(some)), torch.tensor([row.lookup for row in some]))
        for site in sites:
            parts[site].append(captured[site][at].float())
    return {site: torch.cat(states) for site, states in parts.items()}
