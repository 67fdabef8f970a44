"""What protocols ask a model, and its answers: every protocol states its needs, and one pass reads them all.

Protocols share equal readings, and many edits share those of one base model, whose prompts then fill the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from metrics.asking.generation import Said, to_natural_stop
from metrics.asking.logprobs import Forced
from metrics.asking.together import ask
from metrics.drift import text_nll
from models import Sampling, join, tokens_together

if TYPE_CHECKING:
    from models import LanguageModel

K = TypeVar("K", bound=Hashable)

Pair = tuple[str, str]
"""(prompt, answer)"""
Row = tuple[tuple[int, ...], int]
"""Token ids of a prompt and its answer, and the prompt's length."""

TEXT_TOKENS = 100
"""Length of a sampled text with its prompt, tokens: `max_out_len` of ROME's code."""
STOP_TOKENS = 50
"""Most new tokens before a natural stop: `max_new_tokens` of WILD's code."""
TOP_K = 5
"""Most probable tokens among which a text is sampled, as in ROME's code."""


@dataclass(frozen=True)
class Needs:
    """Prompts to run.  Fields keep their order, so that batches, and with them the last bits, are repeatable."""

    answers: tuple[Pair, ...] = ()
    """Answers to score; prompt and answer are tokenised together where that does not change the prompt's tokens."""
    distributions: tuple[Pair, ...] = ()
    """Those of `answers` whose next-token distribution at the prompt's end is kept."""
    joint: tuple[Pair, ...] = ()
    """Answers to score as EasyEdit does: always tokenised together with the prompt."""
    said: Mapping[str, int] = field(default_factory=dict)
    """Prompt -> most new tokens of its greedy continuation."""
    stopped: tuple[str, ...] = ()
    """Prompts to continue to a natural stop."""
    texts: tuple[str, ...] = ()
    """Prompts after which a text is sampled."""
    passages: tuple[str, ...] = ()
    """Texts whose perplexity is measured."""

    def __or__(self, other: Needs) -> Needs:
        """The union of both."""
        both = [(self.said, other.said), (other.said, self.said)]
        return Needs(
            answers=_union(self.answers, other.answers),
            distributions=_union(self.distributions, other.distributions),
            joint=_union(self.joint, other.joint),
            said={prompt: max(n, two.get(prompt, 0)) for one, two in both for prompt, n in one.items()},
            stopped=_union(self.stopped, other.stopped),
            texts=_union(self.texts, other.texts),
            passages=_union(self.passages, other.passages),
        )


@dataclass(frozen=True, eq=False)
class Readings:
    """One model's answers.  A lookup gives the reason where the model could not be asked."""

    model: str
    revision: str
    _answers: Mapping[Pair, Forced | str]
    _joint: Mapping[Pair, Forced | str]
    _said: Mapping[str, str]
    _stopped: Mapping[str, str]
    _texts: Mapping[str, str]
    _passages: Mapping[str, tuple[float, int]]

    def answer(self, pair: Pair) -> Forced | str:
        """A scored answer of `Needs.answers`."""
        return self._answers[pair]

    def joint(self, pair: Pair) -> Forced | str:
        """A scored answer of `Needs.joint`."""
        return self._joint[pair]

    @property
    def said(self) -> Mapping[str, str]:
        """Greedy continuations."""
        return self._said

    @property
    def answers(self) -> dict[Pair, Forced]:
        """Every scored answer of `Needs.answers` that could be read."""
        return {pair: forced for pair, forced in self._answers.items() if isinstance(forced, Forced)}

    def stopped(self, prompt: str) -> str | None:
        """The continuation to a natural stop; None where the prompt cannot be run."""
        return self._stopped.get(prompt)

    def text(self, prompt: str) -> str | None:
        """A sampled text with its prompt; None where the prompt cannot be run."""
        return self._texts.get(prompt)

    def passage(self, text: str) -> tuple[float, int]:
        """(summed negative log probability in nats, predicted tokens) of a text."""
        return self._passages[text]


def read(
    model: LanguageModel, needs: Needs, *, seed: int = 0, tick: Callable[[int], None] = lambda _: None
) -> Readings:
    """Read everything in few batches.

    Args:
        seed: of the sampled texts.
        tick: called with a number of prompts after each batch; may raise to stop.
    """
    answers = {pair: _row(join, model, pair) for pair in needs.answers}
    joint = {pair: _row(_joint, model, pair) for pair in needs.joint}
    keep = {row for pair in needs.distributions if not isinstance(row := answers[pair], str)}
    wanted = {row: (*row, row in keep) for row in (*answers.values(), *joint.values()) if not isinstance(row, str)}
    longest = min(TEXT_TOKENS, model.max_positions)
    budgets = {p: (tuple(model.encode(p)), n) for p, n in needs.said.items() if _runs(model, p)}
    scores, texts = ask(model, list(wanted.values()), list(budgets.values()), tick)
    forced = {row: scores[question] for row, question in wanted.items()}
    said = {prompt: texts[question] for prompt, question in budgets.items()}
    return Readings(
        model=model.name,
        revision=model.revision,
        _answers={pair: row if isinstance(row, str) else forced[row] for pair, row in answers.items()},
        _joint={pair: row if isinstance(row, str) else forced[row] for pair, row in joint.items()},
        _said={prompt: text.text for prompt, text in said.items()},
        _stopped=_stopped(model, needs.stopped, said),
        _texts=_drawn(model, needs.texts, seed, tick),
        _passages=dict(zip(needs.passages, text_nll(model, needs.passages, max_positions=longest), strict=True)),
    )


def _joint(model: LanguageModel, prompt: str, answer: str) -> tuple[list[int], int]:
    ids, n_prompt = tokens_together(model, prompt, answer), len(model.encode(prompt))
    if n_prompt >= len(ids):
        raise ValueError(f"the answer {answer!r} adds no token to the prompt")
    return ids, n_prompt


Join = Callable[["LanguageModel", str, str], tuple[list[int], int]]


def _row(make: Join, model: LanguageModel, pair: Pair) -> Row | str:
    """The row, or the reason why there is none."""
    try:
        ids, n_prompt = make(model, *pair)
    except ValueError as error:
        return str(error)
    return tuple(ids), n_prompt


def _runs(model: LanguageModel, prompt: str) -> bool:
    try:
        model.encode(prompt)
    except ValueError:
        return False
    return True


def _stopped(model: LanguageModel, prompts: Sequence[str], said: Mapping[str, Said]) -> dict[str, str]:
    return to_natural_stop(model, [prompt for prompt in prompts if _runs(model, prompt)], STOP_TOKENS, said)


def _drawn(model: LanguageModel, prompts: Sequence[str], seed: int, tick: Callable[[int], None]) -> dict[str, str]:
    """Texts of TEXT_TOKENS tokens, prompts included."""
    runnable = [prompt for prompt in prompts if _runs(model, prompt)]
    texts = model.draw(runnable, TEXT_TOKENS, Sampling(TOP_K, seed))
    tick(len(runnable))
    return {prompt: prompt + text for prompt, text in zip(runnable, texts, strict=True)}


def _union(first: Iterable[K], second: Iterable[K]) -> tuple[K, ...]:
    return tuple(dict.fromkeys((*first, *second)))
