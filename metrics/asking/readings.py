"""Run both models over the prompts of a request, in few batched forwards, and pair their readings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from metrics.asking.generation import matches
from metrics.asking.logprobs import Forced
from metrics.asking.prompts import Item
from metrics.asking.together import ask
from metrics.definitions import METRICS
from metrics.drift import kl_divergence
from metrics.types import PromptRow, Reading, Settings
from models.text.tokens import join

if TYPE_CHECKING:
    from models import LanguageModel

ROOM_BEYOND_ANSWER = 4
"""Tokens generated beyond the longest answer, so that its end can be seen."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One model's continuations by prompt, and its answers' log probabilities by (prompt, answer)."""

    said: dict[str, str]
    forced: dict[tuple[str, str], Forced]
    texts: dict[str, str] = field(default_factory=dict)
    """Longer continuations of the request's prompts for texts."""


@dataclass(frozen=True)
class Plan:
    """Everything that will be run, planned before the first forward."""

    items: tuple[Item, ...]
    problems: dict[Item, str]
    """Why an item cannot be run."""
    bridges: tuple[tuple[str, str], ...]
    """(prompt, answer) pairs to ask the unedited model."""
    budgets: dict[str, int]
    """Most new tokens, by prompt."""
    texts: tuple[tuple[str, int], ...] = ()
    """Prompts for texts, with their most new tokens."""

    @property
    def usable(self) -> list[Item]:
        """The items that can be run."""
        return [item for item in self.items if item not in self.problems]

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """Every (prompt, answer) to score, right and wrong answers."""
        return tuple(dict.fromkeys(_pairs(self.usable)))

    @property
    def distributions(self) -> tuple[tuple[str, str], ...]:
        """The (prompt, answer) pairs of locality, for which the whole next-token distribution is read."""
        locality = (item for item in self.usable if item.metric == "locality")
        return tuple(dict.fromkeys((item.prompt, item.answer) for item in locality))

    def prompts(self, *, with_bridges: bool) -> dict[str, int]:
        """Prompts to continue, with their token budgets; bridges are asked of the unedited model alone."""
        wanted = {item.prompt for item in self.usable} | {prompt for prompt, _ in self.bridges if with_bridges}
        return {prompt: budget for prompt, budget in self.budgets.items() if prompt in wanted}

    def steps(self) -> int:
        """Number of steps `observe` ticks for the two models together."""
        n_prompts = len(self.prompts(with_bridges=True)) + len(self.prompts(with_bridges=False))
        return n_prompts + 2 * (len(self.answers) + len(self.texts))


def plan(
    model: LanguageModel, items: Sequence[Item], settings: Settings, texts: Sequence[tuple[str, int]] = ()
) -> Plan:
    """Set aside the prompts that cannot be run and give each of the others its token budget.

    The budget depends only on the prompt and its answers, so that other prompts cannot change a continuation.

    Args:
        texts: prompts for texts, with their most new tokens.
    """
    problems: dict[Item, str] = {}
    bridges: list[tuple[str, str]] = []
    budgets: dict[str, int] = {}

    def admit(prompt: str, answer: str) -> None:
        needed = _answer_length(model, prompt, answer) + ROOM_BEYOND_ANSWER
        budgets[prompt] = max(budgets.get(prompt, settings.max_new_tokens), needed)

    for item in items:
        try:
            for pair in _pairs([item]):
                admit(*pair)
        except ValueError as error:
            problems[item] = str(error)
    for bridge in dict.fromkeys(bridge for item in items if item not in problems for bridge in item.needs):
        try:
            admit(*bridge)
        except ValueError:
            continue  # a bridge that cannot be run counts as not known
        bridges.append(bridge)
    return Plan(tuple(items), problems, tuple(bridges), budgets, tuple(texts))


def observe(model: LanguageModel, to_run: Plan, tick: Callable[[int], None], *, with_bridges: bool) -> Observation:
    """Score every answer, and generate after every prompt."""
    scored, kept = {}, set(to_run.distributions)
    for pair in to_run.answers:
        ids, n_prompt = join(model, *pair)
        scored[pair] = (tuple(ids), n_prompt, pair in kept)
    budgets = to_run.prompts(with_bridges=with_bridges)
    continued = {(prompt, n): (tuple(model.encode(prompt)), n) for prompt, n in (*budgets.items(), *to_run.texts)}
    forced, said = ask(model, list(scored.values()), list(continued.values()), tick)
    return Observation(
        said={prompt: said[continued[prompt, n]].text for prompt, n in budgets.items()},
        forced={pair: forced[question] for pair, question in scored.items()},
        texts={prompt: said[continued[prompt, n]].text for prompt, n in to_run.texts},
    )


def rows_of(
    to_run: Plan, before: Observation, after: Observation, settings: Settings, targets_new: Sequence[str]
) -> tuple[PromptRow, ...]:
    """One row per item, in order; a row counts only if the unedited model knew what it needs."""
    new = [name for target in targets_new for name in settings.names_of(target)]
    known = {
        (prompt, answer): matches(before.said[prompt], settings.names_of(answer), () if answer in targets_new else new)
        for prompt, answer in to_run.bridges
    }
    return tuple(_row(item, to_run, before, after, settings, known) for item in to_run.items)


def _row(
    item: Item,
    to_run: Plan,
    before: Observation,
    after: Observation,
    settings: Settings,
    known: dict[tuple[str, str], bool],
) -> PromptRow:
    shown = (item.metric, item.kind, item.prompt, item.answer, item.other)
    if item in to_run.problems:
        return PromptRow(*shown, None, None, counted=False, reason=to_run.problems[item])
    counted = all(known.get(bridge, False) for bridge in item.needs)
    kl, same_top = _moved(before.forced[item.prompt, item.answer], after.forced[item.prompt, item.answer])
    return PromptRow(
        *shown,
        _reading(item, before, settings),
        _reading(item, after, settings),
        counted=counted,
        reason="" if counted else METRICS[item.metric].unknown,
        kl=kl,
        same_top=same_top if item.metric == "locality" else None,
    )


def _reading(item: Item, seen: Observation, settings: Settings) -> Reading:
    answer = seen.forced[item.prompt, item.answer]
    other = seen.forced[item.prompt, item.other] if item.other else None
    rivals = settings.names_of(item.other) if item.other else ()
    return Reading(
        continuation=seen.said[item.prompt],
        match=matches(seen.said[item.prompt], settings.names_of(item.answer), rivals),
        p_answer=answer.probability,
        nll_answer=answer.nll,
        token_accuracy=answer.token_accuracy,
        rank=answer.rank,
        p_other=other.probability if other else None,
        nll_other=other.nll if other else None,
    )


def _moved(before: Forced, after: Forced) -> tuple[float | None, bool]:
    """(KL, whether the most probable next token stays the same); (None, False) without finite numbers."""
    if before.next_log_probs is None or after.next_log_probs is None:
        return None, False
    same = torch.equal(before.next_log_probs.argmax(), after.next_log_probs.argmax())
    return kl_divergence(before.next_log_probs, after.next_log_probs), same


def _pairs(items: Iterable[Item]) -> list[tuple[str, str]]:
    """Each item's prompt with each of its answers."""
    return [(item.prompt, answer) for item in items for answer in (item.answer, item.other) if answer is not None]


def _answer_length(model: LanguageModel, prompt: str, answer: str) -> int:
    """Tokens of the answer.

    Raises:
        ValueError: if prompt or answer is empty or both together do not fit the context.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    if not answer.strip():
        raise ValueError("no answer is given")
    ids, n_prompt = join(model, prompt, answer)
    if len(ids) > model.max_positions:
        raise ValueError(
            f"prompt and answer have {len(ids)} tokens, more than the {model.max_positions} the model can read"
        )
    return len(ids) - n_prompt
