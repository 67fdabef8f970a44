"""Words before the prompt: how several prompt edits share one prefix (`editing.ops.PromptOp`)."""

from __future__ import annotations

from collections.abc import Sequence

from editing.ops import PromptOp


def fold(ops: Sequence[PromptOp], max_positions: int) -> tuple[int, ...]:
    """Token ids of the prefix of all active edits: demonstrations, facts, one opening.

    Demonstrations are dropped from the front, where the least similar stand, until `reserve` tokens are free.

    Raises:
        ValueError: if the facts alone leave fewer free.
    """
    if not ops:
        return ()
    room = max_positions - max(op.reserve for op in ops)
    stated = [token for op in ops for token in op.fact] + list(ops[-1].opening)
    if len(stated) > room:
        raise ValueError(
            f"the facts put before the prompt take {len(stated)} tokens, and of the model's {max_positions} only "
            f"{room} are to be filled; remove an edit or lower `reserve`"
        )
    demonstrations = list(dict.fromkeys(demonstration for op in ops for demonstration in op.demonstrations))
    while demonstrations and sum(map(len, demonstrations)) + len(stated) > room:
        demonstrations.pop(0)
    return (*(token for demonstration in demonstrations for token in demonstration), *stated)
