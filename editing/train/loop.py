"""The training loop: steps, a validation curve, the best editor kept, checkpoints that resume.

Every step draws its episodes from the seed and its own number, so a resumed run gives the same result as one that was
never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from editing.train.artefact import LOG, MANIFEST, Artefact, load_artefact, replace_file, save_artefact

CHECKPOINT = "checkpoint.safetensors"
WARM_UP = 20
"""Steps over which learning rates rise."""
LAST_RATE = 0.05
"""Share of the learning rate at the end of its linear decay."""


class Trainer(Protocol):
    """What the loop trains."""

    kind: str
    base_revision: str

    @property
    def learned(self) -> nn.Module:
        """Everything that is learned or counted along: its state_dict is the checkpoint."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Stepped by the trainer; the loop sets their learning rates."""

    settings: Mapping[str, Any]
    """JSON; what the editor is built from and how it is trained.  A checkpoint of other settings is refused."""

    def step(self, number: int, share: float) -> dict[str, float]:
        """One update; `share` of the budget is spent.  The losses."""

    def validate(self) -> dict[str, float]:
        """Figures on the validation subjects; `score` says which editor is best."""

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from an artefact's tensors."""

    def editor(self) -> Mapping[str, Tensor]:
        """The tensors of the present state for an artefact."""

    def calibrate(self) -> dict[str, float]:
        """Figures of the best editor, computed after training; stored with the artefact's figures."""


@dataclass(frozen=True)
class Budget:
    """When to stop: after `steps`, or after `minutes` of training, whatever comes first.

    Raises:
        ValueError: if neither is given, or one is not positive.
    """

    steps: int | None = None
    minutes: float | None = None
    validate_every: int = 50

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("no budget was given; say how many steps or minutes to train")
        for name in ("steps", "minutes", "validate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; expected a number above 0")

    def share(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0 to 1."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(step / self.steps)
        if self.minutes is not None:
            parts.append(seconds / (60 * self.minutes))
        return min(1.0, max(parts))


@dataclass
class TrainingState:
    """TrainingState of a training."""

    step: int = 0
    seconds: float = 0.0
    best: float = -float("inf")


def begin_from(trainer: Trainer, folder: Path) -> None:
    """Start a trainer from a finished editor; its digest is stored with the settings.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not whole, is of another kind, model or size.
    """
    artefact = load_artefact(folder, trainer.kind, trainer.base_revision)
    try:
        trainer.start_from(artefact.tensors)
    except RuntimeError:
        raise ValueError(
            f"the editor in {str(folder)!r} has other sizes than the settings; give it the settings it was trained with"
        ) from None
    trainer.settings = {**trainer.settings, "started_from": artefact.digest}


def train(trainer: Trainer, out: Path, budget: Budget, report: Callable[[dict[str, Any]], None]) -> None:
    """Train until the budget is spent; `out` then holds the best editor.

    Resumes from a checkpoint in `out`.

    Args:
        report: called with every line of the log.

    Raises:
        ValueError: if `out` holds a finished editor or a checkpoint of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = TrainingState()
    if (out / CHECKPOINT).is_file():
        state = _resume(trainer, out / CHECKPOINT)
    elif (out / MANIFEST).exists():
        raise ValueError(f"{str(out)!r} holds a trained editor already; choose another folder, or remove that one")
    lines = _log_until(out / LOG, state.step)
    losses: list[dict[str, float]] = []
    began = perf_counter() - state.seconds
    while (share := budget.share(state.step, perf_counter() - began)) < 1:
        _set_rates(trainer.optimizers, state.step, share)
        losses.append(trainer.step(state.step, share))
        state.step += 1
        state.seconds = perf_counter() - began
        finished = budget.share(state.step, state.seconds) >= 1
        if finished or state.step % budget.validate_every == 0:
            line = _validated(trainer, out, state, losses)
            losses = []
            lines.append(line)
            replace_file(out / LOG, "".join(json.dumps(entry) + "\n" for entry in lines).encode())
            _save_checkpoint(trainer, out / CHECKPOINT, state)
            report(line)
    _calibrate(trainer, out)
    (out / CHECKPOINT).unlink(missing_ok=True)


def _calibrate(trainer: Trainer, out: Path) -> None:
    best = load_artefact(out, trainer.kind, trainer.base_revision)
    trainer.start_from(best.tensors)
    save_artefact(replace(best, validation={**best.validation, **trainer.calibrate()}), out)


def _validated(
    trainer: Trainer, out: Path, state: TrainingState, losses: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Validate, save the editor if it is the best so far, and return the line of the log."""
    figures = trainer.validate()
    kept = figures["score"] > state.best
    if kept:
        state.best = figures["score"]
        about = {**figures, "step": state.step, "minutes": round(state.seconds / 60, 2)}
        save_artefact(Artefact(trainer.kind, trainer.base_revision, trainer.settings, about, trainer.editor()), out)
    mean = {name: sum(line[name] for line in losses) / len(losses) for name in losses[0]}
    return {
        "step": state.step,
        "minutes": round(state.seconds / 60, 3),
        "kept": kept,
        "losses": _rounded(mean),
        "validation": _rounded(figures),
    }


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], step: int, share: float) -> None:
    factor = min(1.0, (step + 1) / WARM_UP) * max(LAST_RATE, 1 - share)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


def _log_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of an earlier run's log up to the checkpoint."""
    if step == 0 or not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["step"] <= step]


def _save_checkpoint(trainer: Trainer, path: Path, state: TrainingState) -> None:
    tensors = {f"learned.{name}": tensor for name, tensor in trainer.learned.state_dict().items()}
    for index, optimizer in enumerate(trainer.optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{parameter}.{name}": value for name, value in values.items()}
    about = {
        "kind": trainer.kind,
        "base_revision": trainer.base_revision,
        "settings": dict(trainer.settings),
        "progress": vars(state),
    }
    # clone: a tensor that shares its storage with another cannot be saved
    content = save({name: tensor.detach().clone() for name, tensor in tensors.items()}, {"about": json.dumps(about)})
    replace_file(path, content)


def _resume(trainer: Trainer, path: Path) -> TrainingState:
    """Load a checkpoint into the trainer."""
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint: {error}; remove it to start again") from error
    mine = json.loads(json.dumps([trainer.kind, trainer.base_revision, dict(trainer.settings)]))
    if [about["kind"], about["base_revision"], about["settings"]] != mine:
        raise ValueError(
            f"{str(path)!r} belongs to a training with other settings or of another model; choose another folder, or "
            "remove it"
        )
    trainer.learned.load_state_dict(
        {name.removeprefix("learned."): value for name, value in tensors.items() if name.startswith("learned.")}
    )
    for index, optimizer in enumerate(trainer.optimizers):
        _load_optimizer(optimizer, {n: v for n, v in tensors.items() if n.startswith(f"optimizer.{index}.")})
    return TrainingState(**about["progress"])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, entry = name.split(".")[2:]
        state.setdefault(int(parameter), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
