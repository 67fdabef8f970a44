"""Words before the prompt: how several prompt edits share one prefix, and how a prompt reads behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editing.ops import PromptOp
from models import LanguageModel


def fold(model: LanguageModel, ops: Sequence[PromptOp]) -> tuple[int, ...]:
    """Token ids of the prefix of all active edits: demonstrations, facts, one opening.

    Demonstrations are dropped from the front, where the least similar stand, until `reserve` tokens are free.

    Raises:
        ValueError: if the facts alone leave fewer free.
    """
    if not ops:
        return ()
    room = model.max_positions - max(op.reserve for op in ops)
    stated = [token for op in ops for token in op.fact] + list(ops[-1].opening)
    if len(stated) > room:
        raise ValueError(
            f"the facts put before the prompt take {len(stated)} tokens, and of the model's {model.max_positions} only "
            f"{room} are to be filled; remove an edit or lower `reserve`"
        )
    demonstrations = list(dict.fromkeys(demonstration for op in ops for demonstration in op.demonstrations))
    while demonstrations and sum(map(len, demonstrations)) + len(stated) > room:
        demonstrations.pop(0)
    found = [*(token for demonstration in demonstrations for token in demonstration), *stated]
    return (_one_token(model, model.decode(found[:1]).lstrip(" "), found[0]), *found[1:])


def behind(model: LanguageModel, before: Sequence[int], row: Sequence[int]) -> tuple[list[int], int]:
    """A row of token ids read behind others, and how many of its own stay in front of them.

    A start token, or what a chat template has before the user's words, stays in front.  A first word that was tokenised
    as the beginning of a text becomes the one token it is inside a text, where the tokenizer has it ("The" and " The"),
    so that the row keeps its length.
    """
    n = len(model.lead_ids)
    lead = n if tuple(row[:n]) == model.lead_ids and len(row) > n else 0
    if not before:
        return list(row), lead
    inside = _one_token(model, f" {model.decode(row[lead : lead + 1])}", row[lead])
    return [*row[:lead], *before, inside, *row[lead + 1 :]], lead


def _one_token(model: LanguageModel, text: str, otherwise: int) -> int:
    """The token that is this text; another where there is none."""
    ids = model.tokenize(text, special_tokens=False)
    return ids[0] if len(ids) == 1 else otherwise


def own_positions(found: torch.Tensor, lead: int, n_before: int) -> torch.Tensor:
    """The positions of the row itself: [pos + n_before, ...] -> [pos, ...]."""
    return torch.cat([found[:lead], found[lead + n_before :]])
