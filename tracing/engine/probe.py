"""Measure whether a packed sweep gives the numbers of whole forwards on a model.

Runs without a restored state join the batch, one after the first layer and one in the middle, as suffixes of a packed
sequence.  They must end with the logits of the corrupted run.  ALiBi built from the batch, ignored position ids or a
rebuilt mask show as another number or as a shape error.

The answer is kept with the model, for its configuration and the installed transformers.  A model with foreign parts
or hooks, such as an edited view that acts by the prompt, may behave differently on another prompt: it is replayed.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from models import LanguageModel
from models.forwards.packing import TRANSFORMERS
from tracing.engine.passes import sweep_logits
from tracing.engine.plan import Block, Pack, end_to_end
from tracing.engine.question import Question
from tracing.engine.runs import Driver, Runs, capture
from tracing.engine.sweep import Sweep

EngineName = Literal["packed", "replay"]

PROBE_TOKENS = 8
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest allowed difference of logits, in units of the largest logit."""
HALF_PRECISION_TOLERANCE = 5e-2  # bfloat16 keeps 8 bits, so another batch size rounds differently


def engine_for(model: LanguageModel, driver: Driver, prompts: int = 1) -> EngineName:
    """ "packed" where that is exact, else "replay"; measured at the first call.

    Args:
        driver: one that runs `elsewhere` (`models.remote.driver`) is given whole forwards only.
        prompts: how many share a sweep; measured with two if there are more than one.
    """
    if getattr(driver, "elsewhere", False):
        return "replay"
    with model.lock:  # without it, hooks of another thread's forward would count as foreign
        if not model.packable:
            return "replay"
    described = model.module.config.to_json_string(use_diff=False)
    parts = (described, TRANSFORMERS, str(model.dtype), str(model.device))
    prompts = min(prompts, 2)
    key = f"tracing engine, prompts {prompts} " + hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if key not in model.findings:
        model.findings[key] = "packed" if packs_exactly(model, driver, prompts) else "replay"
    return "packed" if model.findings[key] == "packed" else "replay"


def packs_exactly(model: LanguageModel, driver: Driver, prompts: int = 1) -> bool:
    """Whether packed runs of this many prompts, without a restored state, end with the logits of the corrupted run."""
    question = _prompt(model)
    noise = torch.randn(1, len(question.subject), model.d_model, generator=torch.Generator().manual_seed(0))
    embeddings = 3 * float(model.embedding(question.ids).float().std()) * noise
    stretches = end_to_end([(len(question.ids), 1)] * prompts)
    restored = (question.subject.start, question.subject.stop, len(question.ids) - 1)
    pack = Pack(tuple((stretch, pos) for stretch in stretches for pos in restored))
    # twice each, so that `Sweep` folds more than one row for the head
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
    """Arbitrary tokens, longer than the attention windows of tiny models."""
    length = min(PROBE_TOKENS, model.max_positions)
    ids = torch.randint(0, model.d_vocab, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    return Question(tuple(ids), length, (0,), range(1, 3))
