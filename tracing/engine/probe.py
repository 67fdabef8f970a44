"""Whether a model computes a packed sweep as it computes whole forwards: measured, never assumed.

Unrestored runs are let into the batch, one behind the first layer and one in the middle, as suffixes of a packed
sequence; they have to end in the logits of the corrupted run itself.  ALiBi built from the batch, position ids that are
ignored, a mask that is rebuilt: each shows as another number or as an error of shapes.

The answer is kept with the model, for its configuration and the installed transformers.  A model with parts or hooks of
somebody else's (an edited view that acts by the prompt) may do on one prompt what it does not on another, so no probe
can speak for it: it is always replayed.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from models import LanguageModel
from models.forwards.packing import TRANSFORMERS, plain
from models.forwards.remote import Remote
from tracing.engine.passes import sweep_logits
from tracing.engine.plan import Block, Pack, end_to_end
from tracing.engine.question import Question
from tracing.engine.runs import Driver, Runs, capture
from tracing.engine.sweep import Sweep

EngineName = Literal["packed", "replay"]

PROBE_TOKENS = 8
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference of logits, in units of the largest logit."""
HALF_PRECISION_TOLERANCE = 5e-2  # bfloat16 keeps 8 bits: a batch of another size rounds differently


def engine_for(model: LanguageModel, driver: Driver, prompts: int = 1) -> EngineName:
    """ "packed" where that is exact, else "replay"; measured at the first call.

    Args:
        driver: only whole forwards are sent elsewhere.
        prompts: how many share a sweep; for more than one it is measured on two.
    """
    if isinstance(driver, Remote):
        return "replay"
    with model.lock:  # outside of it, hooks of another thread's forward would be taken for somebody else's
        if not plain(model.module):
            return "replay"
    described = model.module.config.to_json_string(use_diff=False)
    parts = (described, TRANSFORMERS, str(model.dtype), str(model.device))
    prompts = min(prompts, 2)
    key = f"tracing engine, prompts {prompts} " + hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if key not in model.findings:
        model.findings[key] = "packed" if packs_exactly(model, driver, prompts) else "replay"
    return "packed" if model.findings[key] == "packed" else "replay"


def packs_exactly(model: LanguageModel, driver: Driver, prompts: int = 1) -> bool:
    """Whether unrestored runs of so many prompts, packed and joining on the way, end where the corrupted run does."""
    question = _prompt(model)
    noise = torch.randn(1, len(question.subject), model.d_model, generator=torch.Generator().manual_seed(0))
    embeddings = 3 * float(model.embedding(question.ids).float().std()) * noise
    stretches = end_to_end([(len(question.ids), 1)] * prompts)
    restored = (question.subject.start, question.subject.stop, len(question.ids) - 1)
    pack = Pack(tuple((stretch, pos) for stretch in stretches for pos in restored))
    # twice each, so that what `Sweep` folds for the head is more than one row
    joins = sorted([-1, 0, model.n_layers // 2 - 1] * 2)
    blocks = [Block(layer, range(0), ()) for layer in joins]
    try:
        alone = capture(model, [question], [embeddings], (), clean=False, keys_values=True, driver=driver)
        runs = alone
        if prompts > 1:
            several = [question] * prompts, [embeddings] * prompts
            runs = capture(model, *several, (), clean=False, keys_values=True, driver=driver)
        # a module as the site: no block output is restored
        gather = model.architecture.mlp is not None
        sweep = Sweep(pack, blocks, "attn_out", None, runs, runs, 1, model.n_layers, 1, gather)
        logits = sweep_logits(model, sweep, driver)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError):  # shapes or arguments
        return False
    return _agree(logits, alone, model.dtype) and _agree(runs.logits, alone, model.dtype)


def _agree(logits: Tensor, runs: Runs, dtype: torch.dtype) -> bool:
    expected = runs.logits.float().expand_as(logits)
    allowed = TOLERANCE.get(dtype, HALF_PRECISION_TOLERANCE) * float(expected.abs().max())
    return float((logits.float() - expected).abs().max()) <= allowed


def _prompt(model: LanguageModel) -> Question:
    """Arbitrary tokens, more than the attention windows of tiny models hold."""
    length = min(PROBE_TOKENS, model.max_positions)
    ids = torch.randint(0, model.d_vocab, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    return Question(tuple(ids), length, (0,), range(1, 3))
