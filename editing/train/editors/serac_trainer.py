"""Training SERAC: a scope classifier, and a counterfactual model that answers as a stored edit says.

Mitchell et al. 2022, section 3.3 (arXiv:2206.06520).  Both are trained with supervision and share no parameter: the
classifier by a balanced binary cross-entropy on pairs (edit prompt, another prompt), with hard negatives of the same
relation and the same subject; the counterfactual model by the new answer's NLL behind the edit that is in scope.  The
latter is the base with a low-rank change of every MLP, since a copy fine-tuned in full would not fit a repository.

The threshold is calibrated on the validation subjects, for a memory of one edit and for one of many at once, because
false alarms grow with every entry.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editing.prefix import behind
from editing.train.editors.scope import PromptReader, ScopeNetwork, balanced_bce, squared_distance
from editing.train.episodes import SPLIT_SEED, Episode, Episodes
from editing.train.factors import mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.rows import Encoder, LowRank, Rows
from facts import Fact
from models import LanguageModel, pad
from models.reference.corpus import lowered


@dataclass(frozen=True)
class SeracSettings:
    """How SERAC is built and trained."""

    heads: int = 4
    width: int = 128
    scope_rate: float = 2e-3
    pairs: int = 96
    """Pairs of prompts in a step of the classifier, half of them in scope."""
    rank: int = 8
    """Of the counterfactual model's change."""
    answers_rate: float = 2e-3
    answers: int = 16
    """Edits behind which an answer is trained in a step."""
    prefixed: float = 0.0
    """Part of the paraphrases that stand behind another sentence."""
    validation_edits: int = 64
    seed: int = 0
    split_seed: int = SPLIT_SEED


def context_ids(model: LanguageModel, fact: Fact, answer: str) -> list[int]:
    """What the counterfactual model reads before a prompt in scope: the edit, worded as the corpus words overrides."""
    return model.encode(f"New fact: {lowered(fact.template).replace('{}', fact.subject)} {answer}.")


class CounterfactualChange(nn.Module):
    """A low-rank change of every given weight; zero at the start."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = tuple(shapes)
        self.rows = nn.ParameterList([nn.Parameter(torch.zeros(rank, d_out)) for _, d_out in shapes.values()])
        self.cols = nn.ParameterList(
            [nn.Parameter(torch.randn(rank, d_in, generator=generator) * d_in**-0.5) for d_in, _ in shapes.values()]
        )

    def changes(self) -> dict[str, LowRank]:
        """The changes as one edit's, for `Forward.changed`."""
        return {
            name: LowRank(rows[None], cols[None])
            for name, rows, cols in zip(self.names, self.rows, self.cols, strict=True)
        }


class SeracState(nn.Module):
    """Everything SERAC learns."""

    threshold: Tensor

    def __init__(self, scope: ScopeNetwork, answers: CounterfactualChange) -> None:
        super().__init__()
        self.scope, self.answers = scope, answers
        self.register_buffer("threshold", torch.tensor(0.5))


def answer_rows(model: LanguageModel, encoder: Encoder, asked: Sequence[tuple[Sequence[int], str, str]]) -> Rows:
    """Rows of (context ids, prompt, answer): the prompt's rows with the context put before them."""
    joined = [
        (len(context), behind(model, context, encoder.joined(prompt, answer)[0])[0], encoder.joined(prompt, answer)[1])
        for context, prompt, answer in asked
    ]
    ids, lengths = pad([whole[:-1] for _, whole, _ in joined], model.pad_id)
    places = [
        (row, position - 1, whole[position])
        for row, (n_context, whole, n_prompt) in enumerate(joined)
        for position in range(n_context + n_prompt, len(whole))
    ]
    row, pos, token = torch.tensor(places, device=model.device).unbind(-1)
    return Rows(ids.to(model.device), tuple(lengths.tolist()), row, pos, token)


class SeracTrainer:
    """Trains both parts of SERAC in one loop; see `loop.Trainer`."""

    kind = "serac"

    def __init__(self, model: LanguageModel, settings: SeracSettings, training: Episodes, validation: Episodes) -> None:
        self.model, self.plan, self.training = model, settings, training
        self.base_revision = model.revision
        self.settings: Mapping[str, Any] = asdict(settings)
        self.reader, self.forward, self.encoder = PromptReader(model), Forward(model), Encoder(model)
        scope = ScopeNetwork(model.d_model, settings.heads, settings.width, settings.seed)
        shapes = weight_shapes(model, mlp_weights(model, range(model.n_layers)))
        self.learned = SeracState(scope, CounterfactualChange(shapes, settings.rank, settings.seed))
        self.optimizers = [
            torch.optim.Adam(scope.parameters(), lr=settings.scope_rate),
            torch.optim.Adam(self.learned.answers.parameters(), lr=settings.answers_rate),
        ]
        source = random.Random(f"{settings.seed}|validation")
        self.validation = validation.draw(source, min(settings.validation_edits, len(validation.editable)))

    def step(self, number: int, share: float) -> dict[str, float]:
        """One update of each part; see `loop.Trainer`."""
        source = random.Random(f"{self.plan.seed}|{number}")
        with torch.enable_grad():
            return {
                "scope": self._scope_step(self.training.draw(source, self.plan.pairs // 2)),
                "answers": self._answers_step(source, self.training.draw(source, self.plan.answers)),
            }

    def _scope_step(self, episodes: Sequence[Episode]) -> float:
        """Each edit prompt with one of its paraphrases, and with each kind of bystander in turn."""
        edits = [episode.request.fact.prompt for episode in episodes]
        inside = [episode.paraphrases[index % len(episode.paraphrases)] for index, episode in enumerate(episodes)]
        outside = [episode.locality[index % len(episode.locality)].prompt for index, episode in enumerate(episodes)]
        n = len(episodes)
        keys = self.learned.scope(self.reader.read([self.model.encode(text) for text in (*edits, *inside, *outside)]))
        distance = torch.cat([squared_distance(keys[:n], keys[n : 2 * n]), squared_distance(keys[:n], keys[2 * n :])])
        loss = balanced_bce(distance, torch.arange(2 * n, device=distance.device) < n)
        return _step(self.optimizers[0], loss)

    def _answers_step(self, source: random.Random, episodes: Sequence[Episode]) -> float:
        asked = []
        for episode in episodes:
            request = episode.request
            query = source.choice((request.fact.prompt, *episode.paraphrases))
            asked.append((context_ids(self.model, request.fact, request.target_new), query, request.target_new))
        return _step(self.optimizers[1], self._answers_nll(asked))

    def _answers_nll(self, asked: Sequence[tuple[Sequence[int], str, str]]) -> Tensor:
        rows = answer_rows(self.model, self.encoder, asked)
        with self.forward.changed(self.learned.answers.changes()):
            return rows.nll(self.forward.log_probs(rows)).mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Shares over the validation subjects, each with a memory of its own edit; the same for a memory of all of them
        under names that end in their number.  Sets the threshold first."""
        scores, prompts = self._scores()
        self.learned.threshold.fill_(calibrated(scores, prompts))
        figures: dict[str, float] = {}
        threshold = float(self.learned.threshold)
        figures |= _rates(scores, prompts, threshold, together=False)
        together = _rates(scores, prompts, threshold, together=True)
        figures |= {f"{name}_{len(self.validation)}": value for name, value in together.items()}
        figures["answers"] = self._answers_right()
        reliability, alarms = figures["answers"] * figures["recall"], figures["false_alarms_same_relation"]
        figures["threshold"] = threshold
        figures["score"] = reliability - 4 * max(0.0, alarms - 0.02)
        return figures

    def _scores(self) -> tuple[Tensor, list[tuple[int, str]]]:
        """([entry, prompt] scores, (own entry, kind) of each prompt) over the validation episodes."""
        texts, about = [], []
        for index, episode in enumerate(self.validation):
            texts += [episode.request.fact.prompt, *episode.paraphrases, *(kept.prompt for kept in episode.locality)]
            about += [(index, "edit"), *((index, "paraphrase") for _ in episode.paraphrases)]
            about += [(index, kept.kind) for kept in episode.locality]
        keys = self.learned.scope(self.reader.read([self.model.encode(text) for text in texts]))
        entries = keys[torch.tensor([kind == "edit" for _, kind in about])]
        return torch.exp(-squared_distance(entries[:, None], keys[None])), about

    def _answers_right(self) -> float:
        """Share of paraphrases that the counterfactual model answers as the edit says."""
        asked = [
            (context_ids(self.model, e.request.fact, e.request.target_new), prompt, e.request.target_new)
            for e in self.validation
            for prompt in e.paraphrases
        ]
        rows = answer_rows(self.model, self.encoder, asked)
        with self.forward.changed(self.learned.answers.changes()):
            return float(rows.right(self.forward.log_probs(rows)).float().mean())

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Both parts and the threshold."""
        self.learned.load_state_dict(dict(tensors))

    def editor(self) -> Mapping[str, Tensor]:
        """Both parts and the threshold."""
        return self.learned.state_dict()

    def calibrate(self) -> dict[str, float]:
        """Nothing more: the threshold is settled at every validation."""
        return {}


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def calibrated(scores: Tensor, about: Sequence[tuple[int, str]]) -> float:
    """The threshold with the best recall less false alarms, mean over a memory of one edit and one of all."""
    candidates = [number / 50 for number in range(1, 50)]

    def worth(threshold: float) -> float:
        both = [_rates(scores, about, threshold, together=together) for together in (False, True)]
        return sum(r["recall"] - 2 * r["false_alarms_same_relation"] - r["false_alarms"] for r in both)

    return max(candidates, key=worth)


def _rates(scores: Tensor, about: Sequence[tuple[int, str]], threshold: float, *, together: bool) -> dict[str, float]:
    """Share of paraphrases routed to their own entry, and of bystanders routed at all.

    Args:
        scores: [entry, prompt]
        together: whether all entries stand in one memory; else each prompt meets its own entry alone.
    """
    hits: dict[str, list[float]] = defaultdict(list)
    for column, (own, kind) in enumerate(about):
        best = int(scores[:, column].argmax()) if together else own
        routed = float(scores[best, column]) > threshold
        if kind == "paraphrase":
            hits["recall"].append(routed and best == own)
        elif kind != "edit":
            hits["false_alarms"].append(routed)
            if kind == "same_relation":
                hits["false_alarms_same_relation"].append(routed)
    return {name: sum(values) / len(values) for name, values in hits.items()}
