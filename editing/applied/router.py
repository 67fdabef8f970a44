"""SERAC's router: which prompts are in the scope of a stored edit, and which model answers them.

Mitchell et al. 2022 (arXiv:2206.06520); `editing.methods.trained.serac` makes the edits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from editing.applied.weights import changed
from editing.edit import Edit
from editing.ops import RouteOp
from editing.train.artefact import Artefact, artefact_for
from editing.train.editors.scope import PromptReader, ScopeNetwork, squared_distance
from editing.train.editors.serac_trainer import CounterfactualChange, SeracState
from editing.train.factors import mlp_weights, weight_shapes
from editing.train.rows import weight_deltas
from models import LanguageModel


class Router(Protocol):
    """Decides the scope of stored edits and gives the model that answers in it."""

    digest: str
    """sha256, equal to `RouteOp.editor` of the edits it serves."""

    def scores(self, model: LanguageModel, prompt: Sequence[int], ops: Sequence[RouteOp]) -> torch.Tensor:
        """Score of the prompt for each entry of all `ops` in order: [entries], in [0, 1].

        Args:
            model: the unedited base.
            prompt: token ids of the prompt, without an answer.
        """

    def counterfactual(self, model: LanguageModel) -> LanguageModel:
        """The model that answers prompts in scope behind the entry's context; `model` is the unedited base."""


@dataclass(frozen=True, eq=False)
class Memory:
    """All stored edits of one router."""

    router: Router
    answers: LanguageModel
    """The counterfactual model."""
    ops: tuple[RouteOp, ...]

    def find(self, base: LanguageModel, prompt: Sequence[int]) -> tuple[float, tuple[int, ...]] | None:
        """(score, context) of the entry whose scope the prompt is in; None if there is none."""
        scores = self.router.scores(base, prompt, self.ops).cpu()
        owners = [(op, index) for op in self.ops for index in range(len(op.contexts))]
        best = int(scores.argmax())
        op, index = owners[best]
        return (float(scores[best]), op.contexts[index]) if float(scores[best]) > op.threshold else None


class SeracRouter:
    """The trained networks as a `Router`; built at the first use with a model."""

    def __init__(self, artefact: Artefact) -> None:
        self.digest = artefact.digest
        self._artefact = artefact
        self._built: tuple[LanguageModel, SeracState, PromptReader] | None = None

    @property
    def threshold(self) -> float:
        """The calibrated threshold."""
        return float(self._artefact.tensors["threshold"])

    def _parts(self, model: LanguageModel) -> tuple[SeracState, PromptReader]:
        built = self._built
        if built is None or built[0] is not model:
            built = (model, serac_state(model, self._artefact), PromptReader(model))
            self._built = built  # one assignment, so that another thread sees all of it or nothing
        return built[1:]

    @torch.no_grad()
    def keys(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """[prompt, d_key], of prompts given as token ids; `model` is the unedited base."""
        state, reader = self._parts(model)
        keys: torch.Tensor = state.scope(reader.read(prompts))
        return keys

    def scores(self, model: LanguageModel, prompt: Sequence[int], ops: Sequence[RouteOp]) -> torch.Tensor:
        """As `Router.scores`.  Of equal scores the latest entry wins; an entry with a subject scores 0 for prompts
        without that subject."""
        stored = torch.cat([op.keys for op in ops]).to(model.device)
        scores = torch.exp(-squared_distance(stored, self.keys(model, [prompt])).double())
        text = model.decode(list(prompt))
        held = torch.tensor([subject in text for op in ops for subject in op.subjects], device=scores.device)
        age = torch.arange(len(scores) - 1, -1, -1, device=scores.device, dtype=scores.dtype)
        return scores * held * (1 - 1e-12 * age)

    @torch.no_grad()
    def counterfactual(self, model: LanguageModel) -> LanguageModel:
        """The base with C's low-rank change."""
        deltas = weight_deltas(self._parts(model)[0].answers.changes())
        return model.view({delta.name: changed(model, delta.name, delta.matrix().double()) for delta in deltas})


def serac_state(model: LanguageModel, artefact: Artefact) -> SeracState:
    """The trained networks.

    Raises:
        ValueError: if they do not fit the model.
    """
    settings = artefact.settings
    shapes = weight_shapes(model, mlp_weights(model, range(model.n_layers)))
    scope = ScopeNetwork(model.d_model, int(settings["heads"]), int(settings["width"]))
    state = SeracState(scope, CounterfactualChange(shapes, int(settings["rank"])))
    try:
        state.load_state_dict(dict(artefact.tensors))
    except RuntimeError:
        raise ValueError(f"the trained serac editor {artefact.digest[:12]} has the sizes of another model") from None
    return state.eval().requires_grad_(False)


def router_of(edit: Edit) -> Router:
    """The router that an edit was made for.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if others stand in their place.
    """
    artefact = artefact_for(edit.config.artefact, edit.method, edit.model_revision)
    wanted = next(op.editor for op in edit.ops if isinstance(op, RouteOp))
    if artefact.digest != wanted:
        raise ValueError(
            f"the edit was made with the serac editor {wanted[:12]}, but {artefact.digest[:12]} is there now; make "
            "the edit again, or put the editor back"
        )
    return SeracRouter(artefact)


def memories(base: LanguageModel, edits: Iterable[Edit]) -> list[Memory]:
    """The stored edits, one memory for each router they were made for."""
    routers: dict[str, Router] = {}
    stored: dict[str, list[RouteOp]] = {}
    for edit in edits:
        for op in (op for op in edit.ops if isinstance(op, RouteOp)):
            if op.editor not in routers:
                routers[op.editor] = router_of(edit)
            stored.setdefault(op.editor, []).append(op)
    return [Memory(router, router.counterfactual(base), tuple(stored[key])) for key, router in routers.items()]
