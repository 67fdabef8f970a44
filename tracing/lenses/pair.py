"""The clean and the corrupted run of one prompt, for lenses that patch states of one into the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from facts import Fact
from models import LanguageModel, run
from models.forwards.interventions import Site
from tracing.config import TraceConfig
from tracing.corruption import Corruption, NoiseLevel, corrupt, measure_noise
from tracing.engine.question import Question, ask
from tracing.storage import Stored

Patch = Callable[[Tensor], Tensor]
Key = tuple[Site, int]


@dataclass(frozen=True, eq=False)
class Pair:
    """A question with its corruption; the *base* run is patched with states of the *source* run.

    Denoising patches clean states into the corrupted run (what suffices to bring the answer back?), noising corrupted
    states into the clean one (what is needed to keep it?).  Heimersheim & Nanda 2024, arXiv:2404.15255.
    """

    model: LanguageModel
    question: Question
    corruption: Corruption
    noising: bool

    @property
    def n_samples(self) -> int:
        """Corrupted runs."""
        return len(self.corruption.embeddings)

    @property
    def ids(self) -> Tensor:
        """[1, pos], prompt and answer."""
        return torch.tensor([self.question.ids], device=self.model.device)

    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens as text."""
        return tuple(self.model.token_strings(self.question.ids[: self.question.n_prompt]))

    def span(self) -> tuple[int, int]:
        """Half-open token positions of the subject."""
        return self.question.subject.start, self.question.subject.stop

    def answer_text(self, fact: Fact) -> str:
        """The fact's answer, or the model's own next token where it names none."""
        text = fact.target_true.strip() or self.model.token_strings(self.question.answer_ids)[0]
        return text.strip() or text

    def described(self, fact: Fact, config: TraceConfig) -> dict[str, Any]:
        """The fields of `PairResult`."""
        return {
            "config": config,
            "model_name": self.model.name,
            "revision": self.model.revision,
            "prompt": fact.prompt,
            "tokens": self.tokens(),
            "subject_span": self.span(),
            "answer": self.answer_text(fact),
            "noise_source": self.corruption.source,
        }

    def base(self, samples: slice) -> dict[Key, Patch]:
        """Patches that give the base run for these samples: none, or the corrupted embeddings."""
        return {} if self.noising else self._corrupted(samples)

    def states(self, keys: Collection[Key], samples: slice) -> tuple[dict[Key, Tensor], dict[Key, Tensor]]:
        """(base, source), each [sample, pos, d] by site and layer."""
        ids = self.ids.expand(len(self.corruption.embeddings[samples]), -1)
        clean = run(self.model, self.ids, captures=keys).captured
        corrupted = run(self.model, ids, captures=keys, patches=self._corrupted(samples)).captured
        spread = {key: state.expand_as(corrupted[key]) for key, state in clean.items()}
        return (spread, corrupted) if self.noising else (corrupted, spread)

    def log_probs(self) -> tuple[float, Tensor]:
        """(clean, corrupted [sample] on the CPU), log-probabilities of the whole answer."""
        ids = self.ids.expand(self.n_samples, -1)
        clean = self.answer(run(self.model, self.ids).logits)
        corrupted = self.answer(run(self.model, ids, patches=self._corrupted(slice(None))).logits)
        return float(clean[0]), corrupted.cpu()

    def answer(self, logits: Tensor) -> Tensor:
        """[row, pos, d_vocab] logits to the [row] log-probability of the whole answer."""
        return answer_log_prob(self.question, logits)

    def _corrupted(self, samples: slice) -> dict[Key, Patch]:
        embeddings, subject = self.corruption.embeddings[samples], self.question.subject

        def write(state: Tensor) -> Tensor:
            state[:, subject.start : subject.stop] = embeddings.to(state)
            return state

        return {("embed", 0): write}


@dataclass(frozen=True, eq=False)
class PairResult(Stored):
    """What results of a clean and a corrupted run share: settings, model, prompt, subject, answer and corruption."""

    NESTED: ClassVar[dict[str, type]] = {"config": TraceConfig}

    config: TraceConfig
    model_name: str
    revision: str
    prompt: str
    tokens: tuple[str, ...]
    """The prompt's tokens as text."""
    subject_span: tuple[int, int]
    """Half-open token positions of the subject."""
    answer: str
    noise_source: str
    """What was done to the subject, in words."""


def answer_log_prob(question: Question, logits: Tensor) -> Tensor:
    """[row, pos, d_vocab] logits of prompt and answer to the [row] log-probability of the whole answer, in float32."""
    answer = torch.tensor(question.answer_ids, device=logits.device).expand(len(logits), -1)
    log_prob = torch.log_softmax(logits[:, question.n_prompt - 1 :].float(), -1)
    return log_prob.gather(2, answer[..., None])[..., 0].sum(1)


def make_pair(model: LanguageModel, fact: Fact, config: TraceConfig, level: NoiseLevel | None) -> Pair:
    """Tokenise and corrupt a fact.

    Raises:
        ValueError: if the prompt does not fit, or the corruption changes nothing or does not align.
    """
    question = ask(model, fact)
    clean = model.embedding(question.ids[question.subject.start : question.subject.stop])
    corruption = corrupt(model, fact, question.subject, clean, config, level or measure_noise(model))
    return Pair(model, question, corruption, config.direction == "noising")
