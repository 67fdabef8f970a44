"""SERAC: edits are kept as text, and a second model answers the prompts that are about one of them.

Mitchell et al. 2022 (arXiv:2206.06520).  A scope classifier compares a prompt with every stored edit,
s_i = exp(-|E(prompt_i) - E(prompt)|^2); if the best s exceeds a threshold, the counterfactual model C answers behind
that edit, otherwise the base answers untouched:

    answer(x) = C("New fact: {prompt_i} {new_i}." x)    if max s_i > threshold, i the argmax
                base(x)                                 otherwise.

E and C come trained (`python -m editing.train serac`).  No weight of the base changes, and C is the base with a
low-rank change of its own.  `subject_gate` also asks that the stored subject stands in the prompt, letter by letter,
which the paper's SERAC has no means to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from editing.applied.view import EditedModel, Router
from editing.configs import check_config
from editing.edit import Diagnostic, Edit
from editing.ops import Op, RouteOp, WeightDelta
from editing.train.artefact import Artefact, load_artefact
from editing.train.factors import mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.proposal import LearnedMethod, artefact_setting, folder_of, weight_deltas
from editing.train.rows import Encoder
from editing.train.scope import PromptReader, ScopeNetwork, squared_distance
from editing.train.serac_trainer import CounterfactualChange, SeracState, answer_rows, context_ids
from facts import EditRequest
from models import LanguageModel, as_out_in


@dataclass(frozen=True)
class SeracConfig:
    """Settings of SERAC.

    Raises:
        ValueError: if a value is out of its range.
    """

    threshold: float = field(
        default=0.0,
        metadata={"help": "Score above which a prompt is in scope; 0 for the calibrated one.", "min": 0.0, "max": 1.0},
    )
    subject_gate: bool = field(
        default=False, metadata={"help": "Also ask that the edit's subject stands in the prompt; not in the paper."}
    )
    artefact: str = artefact_setting()

    def __post_init__(self) -> None:
        check_config(self)


class SeracRouter:
    """The trained parts, as `editing.applied.view.Router`; built for the first model it is asked about."""

    def __init__(self, artefact: Artefact) -> None:
        self.digest = artefact.digest
        self._artefact = artefact
        self._built: tuple[LanguageModel, SeracState, PromptReader] | None = None

    @property
    def threshold(self) -> float:
        """The calibrated one."""
        return float(self._artefact.tensors["threshold"])

    def _parts(self, model: LanguageModel) -> tuple[SeracState, PromptReader]:
        built = self._built
        if built is None or built[0] is not model:
            built = (model, serac_state(model, self._artefact), PromptReader(model))
            self._built = built  # whole, so that another thread sees all of it or none
        return built[1:]

    @torch.no_grad()
    def keys(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """[prompt, d_key], of prompts given as token ids; `model` is the unedited base."""
        state, reader = self._parts(model)
        found: torch.Tensor = state.scope(reader.read(prompts))
        return found

    def scores(self, model: LanguageModel, prompt: Sequence[int], ops: Sequence[RouteOp]) -> torch.Tensor:
        """As `editing.applied.view.Router.scores`; of entries that score alike the latest wins, and an entry with a
        subject scores 0 where the prompt does not hold it."""
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
        return model.view({delta.name: _changed(model, delta) for delta in deltas})


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


def _changed(model: LanguageModel, delta: WeightDelta) -> torch.Tensor:
    module = model.module.get_submodule(delta.name.rpartition(".")[0])
    stored = model.weight(delta.name)
    return as_out_in(module, as_out_in(module, stored).double() + delta.matrix().double()).to(stored.dtype)


class SeracMethod(LearnedMethod):
    """`METHODS["serac"]`."""

    name = "serac"
    title = "SERAC"
    family = "memory"
    config_type = SeracConfig

    def proposed(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: SeracConfig,
        artefact: Artefact,
        active: Sequence[Edit],
    ) -> tuple[tuple[Op, ...], tuple[Diagnostic, ...]]:
        """As `LearnedMethod.proposed`."""
        base = model.base if isinstance(model, EditedModel) else model
        router = SeracRouter(artefact)
        op = RouteOp(
            keys=router.keys(base, [base.encode(request.fact.prompt) for request in requests]).cpu(),
            contexts=tuple(tuple(context_ids(base, request.fact, request.target_new)) for request in requests),
            subjects=tuple(request.fact.subject if config.subject_gate else "" for request in requests),
            threshold=config.threshold or router.threshold,
            editor=router.digest,
        )
        return (op,), _diagnostics(router.counterfactual(base), op, requests, active)

    def router(self, edit: Edit) -> Router:
        """The trained parts an edit was made for.

        Raises:
            FileNotFoundError: if they are not there.
            ValueError: if others stand in their place.
        """
        artefact = load_artefact(folder_of(edit.config.artefact, self.name), self.name, edit.model_revision)
        wanted = next(op.editor for op in edit.ops if isinstance(op, RouteOp))
        if artefact.digest != wanted:
            raise ValueError(
                f"the edit was made with the serac editor {wanted[:12]}, but {artefact.digest[:12]} is there now; make "
                "the edit again, or put the editor back"
            )
        return SeracRouter(artefact)


def _diagnostics(
    answers: LanguageModel, op: RouteOp, requests: Sequence[EditRequest], active: Sequence[Edit]
) -> tuple[Diagnostic, ...]:
    """What the counterfactual model makes of the new answers, and how large the memory is."""
    before = sum(len(other.contexts) for edit in active for other in edit.ops if isinstance(other, RouteOp))
    rows = answer_rows(
        answers,
        Encoder(answers),
        [
            (context, request.fact.prompt, request.target_new)
            for context, request in zip(op.contexts, requests, strict=True)
        ],
    )
    with torch.no_grad():
        p_after = float((-rows.nll(Forward(answers).log_probs(rows))).exp().mean())
    return (
        Diagnostic("p(new) after", p_after, "probability", "Per token, of the counterfactual model behind the edit."),
        Diagnostic("threshold", op.threshold, "score", "A prompt that scores more is in scope."),
        Diagnostic("memory", float(before + len(requests)), "edits", "Stored, with those that were active."),
    )
