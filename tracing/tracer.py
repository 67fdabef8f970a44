"""Causal tracing: which states carry a fact?  Meng et al. 2022, section 2.1 (arXiv:2202.05262).

Three runs of one prompt: **clean**; **corrupted**, with noise on the subject's embeddings; **corrupted with
restoration**, the same with one state (token t, layer l) put back to its clean value.

    TE = P(answer | clean) - P(answer | corrupted)
    IE(t, l) = P(answer | corrupted, h_t^l restored) - P(answer | corrupted)

An answer of several tokens is teacher-forced: P is the product over its tokens, each given the prompt and the answer's
earlier tokens, summed in float32 log space.  Only states of the prompt are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from models import LanguageModel, join, run, subject_span
from tracing.corruption import NoiseLevel, draw_noise, measure_noise
from tracing.engine import Engine, Question, Row, capture_runs
from tracing.types import PositionName, TraceConfig, TraceResult, TraceSite

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all) after every forward pass of the trace."""


class TraceCancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The caller asked the trace to stop; nothing was kept."""


def causal_trace(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TraceResult:
    """Trace one fact at one site; `trace_sites` traces several for less.

    Args:
        fact: its prompt, subject and answer; an empty `target_true` asks for the model's own greedy next token.
        config: the paper's setting by default.
        level: the spread of the embeddings, from `measure_noise`; by default measured over the whole vocabulary.
        positions: restrict the trace to these prompt positions to save time; others are NaN in the result.
        progress: told (rows done, rows in all) after every forward pass.
        cancelled: asked before every forward pass.

    Raises:
        TraceCancelled: when `cancelled` said so, at most one forward pass later.
        ValueError: if the prompt does not fit the model, the subject is not in it, or a setting does not fit the model.
    """
    config = config or TraceConfig()
    traced = trace_sites(
        model, fact, [config], level=level, positions=positions, progress=progress, cancelled=cancelled
    )
    return traced[config.site]


def trace_sites(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[TraceSite, TraceResult]:
    """Trace one fact at several sites that share the clean and corrupted runs; arguments as in `causal_trace`.

    Raises:
        ValueError: as in `causal_trace`, and if the configs name a site twice or differ in noise, samples or seed.
    """
    _check_configs(model, configs)
    stop = cancelled or (lambda: False)
    if stop():
        raise TraceCancelled("the trace was cancelled before it began")
    shared = configs[0]
    level = level or measure_noise(model)
    question = ask(model, fact)
    asked = _positions(question, positions)
    noise = shared.noise * level.sigma * draw_noise(shared.samples, len(question.subject), model.d_model, shared.seed)
    capture = capture_runs(model, question, noise, [config.site for config in configs], shared.batch_size or 64)
    engine = Engine(model, question, capture)
    rows = {config.site: engine.rows(config, asked) if noise.any() else [] for config in configs}
    restore = engine.sweep if engine.grows_exactly() else engine.replay
    done, total = 0, sum(map(len, rows.values()))
    results = {}
    for config in configs:
        grid = _known(engine, config, asked)
        for chunk in _chunks(rows[config.site], config.batch_size or 64):
            if stop():
                raise TraceCancelled(f"the trace was cancelled after {done} of {total} rows")
            grid[_index(chunk)] = restore(config.site, chunk).cpu()
            done += len(chunk)
            if progress:
                progress(done, total)
        results[config.site] = _result(engine, fact, config, level, grid, restore.__name__)
    return results


def ask(model: LanguageModel, fact: Fact) -> Question:
    """The fact's prompt and answer in tokens, the model's greedy next token where the fact names no answer.

    Raises:
        ValueError: if the prompt is empty, does not hold the subject, or is too long for the model with its answer.
    """
    # The template says which occurrence is meant: the one after its own text.
    occurrence = fact.prompt[: fact.template.index("{}")].count(fact.subject)
    span = subject_span(model, fact.prompt, fact.subject, occurrence)
    if fact.target_true.strip():
        ids, n_prompt = join(model, fact.prompt, fact.target_true)
    else:
        prompt = model.encode(fact.prompt)
        logits = run(model, torch.tensor([prompt], device=model.device)).logits[0, -1]
        ids, n_prompt = [*prompt, int(logits.argmax())], len(prompt)
    if len(ids) - 1 > model.max_positions:
        raise ValueError(
            f"the prompt and its answer have {len(ids)} tokens, more than the {model.max_positions} "
            f"that {model.name} reads; shorten the prompt"
        )
    return Question(tuple(ids[:-1]), n_prompt, tuple(ids[n_prompt:]), range(span.start, span.stop))


def _check_configs(model: LanguageModel, configs: Sequence[TraceConfig]) -> None:
    if not configs:
        raise ValueError("no site to trace; give at least one TraceConfig")
    if len({config.site for config in configs}) < len(configs):
        raise ValueError(f"the sites {[config.site for config in configs]} repeat; trace each site once")
    if len({(config.noise, config.samples, config.seed) for config in configs}) > 1:
        raise ValueError("the configs differ in noise, samples or seed; sites traced together share one corruption")
    for config in configs:
        if config.window > model.n_layers:
            raise ValueError(
                f"window is {config.window}, but {model.name} has {model.n_layers} layers; "
                f"choose a window from 1 to {model.n_layers}"
            )


def _positions(question: Question, asked: Sequence[int | PositionName] | None) -> list[int]:
    """The prompt positions to trace, sorted."""
    if asked is None:
        return list(range(question.n_prompt))
    names = {
        "first_subject": question.subject.start,
        "last_subject": question.subject.stop - 1,
        "last_token": question.n_prompt - 1,
    }
    found = set()
    for item in asked:
        pos = names.get(item, -1) if isinstance(item, str) else item
        if not 0 <= pos < question.n_prompt:
            raise ValueError(f"position {item!r} is not one of the {question.n_prompt} tokens or of {', '.join(names)}")
        found.add(pos)
    return sorted(found)


def _known(engine: Engine, config: TraceConfig, positions: Iterable[int]) -> Tensor:
    """[sample, pos, layer] log-probabilities: what is known exactly filled in, everything else NaN."""
    question, n_layers = engine.question, engine.model.n_layers
    grid = torch.full((config.samples, question.n_prompt, n_layers), torch.nan)
    for pos in [*range(question.subject.start), *positions]:
        for layer in range(n_layers):
            known = engine.known_cell(config, layer, pos)
            if known is not None:
                grid[:, pos, layer] = known.cpu()
    return grid


def _chunks(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """At most `size` rows at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _index(rows: Sequence[Row]) -> tuple[list[int], list[int], list[int]]:
    """Where the rows' values go in [sample, pos, layer]."""
    return [row.sample for row in rows], [row.pos for row in rows], [row.cell for row in rows]


def _result(engine: Engine, fact: Fact, config: TraceConfig, level: NoiseLevel, grid: Tensor, how: str) -> TraceResult:
    """The finished trace from [sample, pos, layer] log-probabilities."""
    model, question, capture = engine.model, engine.question, engine.capture
    greedy = capture.clean_logits[0].argmax(-1).tolist()
    clean = question.log_prob(capture.clean_logits).sum().exp()
    corrupted = engine.corrupted.sum(1).exp()
    restored = grid.exp()
    if not capture.noise.any():
        corrupted, restored = clean.expand(config.samples), clean.expand(grid.shape)
    answer = fact.target_true.strip() or model.token_strings(question.answer_ids)[0]
    return TraceResult(
        config=config,
        model_name=model.name,
        revision=model.revision,
        prompt=fact.prompt,
        subject=fact.subject,
        tokens=tuple(model.token_strings(question.ids[: question.n_prompt])),
        subject_span=(question.subject.start, question.subject.stop),
        answer=answer.strip() or answer,
        answer_ids=question.answer_ids,
        predicted=model.token_strings(greedy[:1])[0],
        answer_is_greedy=greedy == list(question.answer_ids),
        noise_std=config.noise * level.sigma,
        noise_source=level.source,
        engine=how,
        clean=float(clean),
        corrupted=_array(corrupted),
        restored=_array(restored),
    )


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.array(values.float().cpu().numpy(), dtype=np.float32)
