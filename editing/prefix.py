"""The prefix of prompt edits: how several share one, and how a prompt is tokenised behind it."""

from __future__ import annotations

from collections.abc import Sequence

from editing.ops import PromptOp
from models import LanguageModel


def fold(model: LanguageModel, ops: Sequence[PromptOp]) -> tuple[int, ...]:
    """Token ids of the prefix of all active edits: demonstrations, facts, one opening.

    Drops demonstrations from the front, where the least similar ones are, until `reserve` tokens are free.

    Raises:
        ValueError: if the facts alone leave fewer than `reserve` free.
    """
    if not ops:
        return ()
    room = model.max_positions - max(op.reserve for op in ops)
    stated = [token for op in ops for token in op.fact] + list(ops[-1].opening)
    if len(stated) > room:
        raise ValueError(
            f"the facts put before the prompt take {len(stated)} tokens, but only {room} of the model's "
            f"{model.max_positions} are available; remove an edit or lower `reserve`"
        )
    demonstrations = list(dict.fromkeys(demonstration for op in ops for demonstration in op.demonstrations))
    while demonstrations and sum(map(len, demonstrations)) + len(stated) > room:
        demonstrations.pop(0)
    tokens = [*(token for demonstration in demonstrations for token in demonstration), *stated]
    return (_one_token(model, model.decode(tokens[:1]).lstrip(" "), tokens[0]), *tokens[1:])


def behind(model: LanguageModel, before: Sequence[int], row: Sequence[int]) -> tuple[list[int], int]:
    """A row of token ids with `before` inserted, and how many of the row's tokens stay in front of it.

    A start token, or what a chat template puts before the user's words, stays in front.  The row's first word,
    tokenised as the beginning of a text ("The"), becomes the token it is inside a text (" The") if the tokenizer has
    one, so that the row keeps its length.
    """
    n = len(model.lead_ids)
    lead = n if tuple(row[:n]) == model.lead_ids and len(row) > n else 0
    if not before:
        return list(row), lead
    inside = _one_token(model, f" {model.decode(row[lead : lead + 1])}", row[lead])
    return [*row[:lead], *before, inside, *row[lead + 1 :]], lead


def _one_token(model: LanguageModel, text: str, otherwise: int) -> int:
    """The token of this text, or `otherwise` if it is not a single token."""
    ids = model.tokenize(text, special_tokens=False)
    return ids[0] if len(ids) == 1 else otherwise
