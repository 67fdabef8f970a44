"""Contexts: short texts put before the prompt, so that an edit also holds behind other text.

Meng et al. 2022, section 3.1 and appendix E.5 (arXiv:2202.05262): the key and the value are averaged over prompts of
the form "x_j. p", where x_j is a text the model generated itself.  Here a seeded generator draws the texts, so the same
model, seed and number give the same contexts on every call.  (The public code draws them without a seed, once per
process, and keeps them when the model changes.)
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from models import LanguageModel

BARE = "{}"
FIXED = ("The", "Therefore", "Because", "I", "You", "In", "However", "Then", "It", "We")
"""Used where the model has no start token or its own text is unusable (EasyEdit starts its prefixes from the first five
of these)."""

LENGTHS = (5, 10)
"""Tokens in the first and the second half of the prefixes; ROME's public code has ten of each length."""
TOP_K = 5
"""As in the public code."""
_MADE: WeakKeyDictionary[LanguageModel, dict[tuple[int, int], tuple[str, ...]]] = WeakKeyDictionary()
"""Model -> (count, seed) -> templates; edits of one model share them."""


def make_contexts(model: LanguageModel, count: int, seed: int) -> tuple[str, ...]:
    """`count` + 1 templates with one `{}` each: the bare one, then "text. {}" with seeded top-5 texts.

    A text that is empty or repeats another is replaced by a fixed opening.
    """
    made = _MADE.setdefault(model, {})
    if (count, seed) not in made:
        made[count, seed] = _templates(model, count, seed)
    return made[count, seed]


def _templates(model: LanguageModel, count: int, seed: int) -> tuple[str, ...]:
    texts: list[str] = []
    generator = torch.Generator().manual_seed(seed)
    for half, length in enumerate(LENGTHS):
        n = count // 2 + (count % 2 if half else 0)
        for text in _sample(model, n, length, generator):
            usable = text and text not in texts
            texts.append(text if usable else _fixed(texts))
    return (BARE, *(f"{text}. {BARE}" for text in texts))


def _fixed(taken: list[str]) -> str:
    """An opening that is not used yet, or two of them when all are used."""
    pairs = (f"{first} {second}" for first in FIXED for second in FIXED)
    return next((text for text in (*FIXED, *pairs) if text not in taken), FIXED[0])


def _sample(model: LanguageModel, n: int, length: int, generator: torch.Generator) -> list[str]:
    if not n:
        return []
    start = model.tokenizer.bos_token_id
    start = model.tokenizer.eos_token_id if start is None else start
    if start is None:
        rows = [model.tokenizer.encode(FIXED[i % len(FIXED)], add_special_tokens=False)[:1] for i in range(n)]
    else:
        rows = [[start]] * n
    ids = torch.tensor(rows, device=model.device)
    keep_first = start is None
    banned = torch.tensor([i for i in model.tokenizer.all_special_ids if i < model.d_vocab], device=model.device)
    cache = None
    for _ in range(min(length, model.max_positions - 1)):
        logits, cache = _next_logits(model, ids, cache)
        if len(banned):
            logits = logits.index_fill(-1, banned, -torch.inf)
        best = logits.topk(min(TOP_K, model.d_vocab - len(banned)), dim=-1)
        choice = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(model.device)
        ids = torch.cat([ids, best.indices.gather(-1, choice)], dim=-1)
    texts = model.tokenizer.batch_decode(ids if keep_first else ids[:, 1:], skip_special_tokens=True)
    return [_clean(text) for text in texts]


@torch.no_grad()
def _next_logits(model: LanguageModel, ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
    """[row, d_vocab] behind the rows, and a cache of what was read; none where an edit decides by the prompt."""
    if not model.plain:
        return model.logits(ids)[:, -1], None
    done = 0 if cache is None else ids.shape[1] - 1
    positions = torch.arange(done, ids.shape[1], device=model.device).expand(len(ids), -1)
    with model.lock:
        output = model.module(
            input_ids=ids[:, done:], position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    return output.logits[:, -1].float(), output.past_key_values


def _clean(text: str) -> str:
    """The text on one line, without braces (they would be read as the placeholder), broken characters and final
    stop."""
    for character in "{}\ufffd":
        text = text.replace(character, "")
    return " ".join(text.split()).rstrip(" .,;:!?")
